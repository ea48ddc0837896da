"""A bundle as an HTTP service: ``mmrec serve BUNDLE``. The engine knows no HTTP; all else stands between it and the world."""
