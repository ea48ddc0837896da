"""A trained run as one folder that needs neither run nor dataset: written by ``mmrec export``, read as a stranger's."""
