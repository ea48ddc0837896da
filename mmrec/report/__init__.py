"""One HTML file with a comparison's table, learning curves and users beside their recommendations."""

from mmrec.report.page import write_report

__all__ = ["write_report"]
