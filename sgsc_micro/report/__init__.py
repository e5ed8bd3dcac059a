"""The page a person reads: one self-contained HTML file beside the certificate."""

from sgsc_micro.report.page import write_report

__all__ = ["write_report"]
