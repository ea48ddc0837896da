"""The models, one file each; :mod:`mmrec.registry` has their short names."""
