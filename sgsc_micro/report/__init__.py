"""The pages a person reads: one self-contained HTML file beside a certificate, or beside those of many boards."""

from sgsc_micro.report.page import write_fleet_page, write_report

__all__ = ["write_fleet_page", "write_report"]
