"""One self-contained HTML page about one run: `selfmask report`."""

from selfmask.analysis.report.headline import Headline, headline
from selfmask.analysis.report.page import Material, Report, build_report

__all__ = ["Headline", "Material", "Report", "build_report", "headline"]
