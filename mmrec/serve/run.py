"""``mmrec serve``: from a bundle's folder to a service that listens."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrec.bundle.bundle import Bundle
from mmrec.config import validate
from mmrec.errors import ConfigError
from mmrec.serve.engine import Engine
from mmrec.serve.keys import read_keys
from mmrec.serve.limits import Limits
from mmrec.serve.logs import log, set_up
from mmrec.serve.service import Service

LOCAL = ("127.0.0.1", "::1", "localhost")


def run(
    bundle: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    keys: Path | None = None,
    encoders: Mapping[str, str] | None = None,
    limits: Mapping[str, Any] | None = None,
    exact: bool = False,
    index_options: Mapping[str, Any] | None = None,
    watch: bool = False,
    trust_models: bool = False,
    log_level: str = "info",
) -> None:
    """Serve a bundle over HTTP until SIGTERM or SIGINT; SIGHUP opens the bundle anew.

    Args:
        bundle: Its folder, or a link to it.
        host: Address to listen on.
        port: Port to listen on; any free one if 0.
        keys: File with an API key on each line; the environment's MMREC_API_KEYS if None.
        encoders: Modality to encoder, for new items.
        limits: Fields of :class:`mmrec.serve.limits.Limits`.
        exact: Search exactly, whatever index is saved.
        index_options: Over the saved ones, such as ``api_key`` or ``uri``.
        watch: Open the bundle anew whenever it changes.
        trust_models: Load a model class that is not mmrec's own, which runs its code.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.

    Raises:
        BundleError: No bundle there, or a damaged one.
        ConfigError: Options that cannot be used, or packages that are not installed.
    """
    _require("fastapi", "uvicorn")
    from mmrec.serve.app import make_app
    from mmrec.serve.reload import Reloader, stamp
    from mmrec.serve.server import open_socket, serve

    path, bounds, known = Path(bundle), validate(Limits, limits or {}, "--limit"), read_keys(keys)
    set_up(log_level)

    def open_engine() -> Engine:
        opened = Bundle(path, trust_models=trust_models)
        return Engine(opened, limits=bounds, encoders=encoders, exact=exact, index_options=index_options)

    before = stamp(path)
    engine = open_engine()
    with open_socket(host, port) as listening:
        if host not in LOCAL and not known:
            log("anybody who reaches this address may ask: give --keys", logging.WARNING, host=host)
        service = Service(engine, known)
        log(
            "opened",
            bundle=engine.hash,
            **engine.bundle.manifest.counts.model_dump(include={"users", "items"}),
        )
        del engine  # else it would stay in memory after the bundle is changed for another
        reloader = Reloader(service, open_engine, path, before)
        serve(service, make_app(service), listening, reloader, watch=watch)


def _require(*modules: str) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"the package {module}", f"{error}", "pip install 'mmrec[serve]'") from None
