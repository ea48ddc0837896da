"""Pictures and text in, feature tables out; ``mmrec.encode(...)`` calls :func:`mmrec.encode.runner.encode`."""

from mmrec.callable_module import make_callable

make_callable(__name__, "mmrec.encode.runner:encode")
