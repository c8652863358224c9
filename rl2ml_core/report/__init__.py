"""A recommendation as one HTML file that needs nothing else: the page's own views with the answer in them."""

from rl2ml_core.report.html import ASSETS, report_html

__all__ = ["ASSETS", "report_html"]
