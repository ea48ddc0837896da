"""Hyper-parameter search on the validation part; ``mmrec.tune(...)`` calls :func:`mmrec.tune.search.tune`."""

from mmrec.callable_module import make_callable

make_callable(__name__, "mmrec.tune.search:tune")
