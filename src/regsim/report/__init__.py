"""Pages that a person looks at. Reads results folders only, computes nothing."""

from regsim.report.page import render_registration_page, write_registration_page

__all__ = ["render_registration_page", "write_registration_page"]
