"""The check at the end of a registration: it may find that it cannot run, but it never stops the registration."""

from pathlib import Path

from regsim.applications.check import check_with
from regsim.applications.check_files import write_check
from regsim.applications.check_measure import CheckSettings
from regsim.applications.check_scores import known_principle
from regsim.errors import RegsimError
from regsim.evaluation.results import CHECK_FOLDER, CheckSummary, Provenance
from regsim.registration import Registration

REPORT = f"{CHECK_FOLDER}/report.html"
SHORT = ("verdict", "reason", "expected_error", "interval", "expected_text", "interval_text", "coverage")


def check_registration(found: Registration, run: Provenance, target: Path) -> tuple[CheckSummary | None, list[str]]:
    """Judge a registered pair, and fill a folder; None and the reason where that cannot be done.

    Args:
        found: the registration.
        run: how it was made; the check's own `run.json` follows it.
        target: the folder to fill, which becomes `check` in the registration's results.
    """
    driving = (known_principle(name) for name in found.schedule.metrics)
    settings = CheckSettings(driver=tuple(dict.fromkeys(metric for metric in driving if metric)))
    try:
        checked = check_with(
            settings, found.fixed, found.moving, transform=found.transform, carry=True, device=run.device
        )
        results = write_check(checked, target, _run(run, checked.results.seconds))
    except (RegsimError, RuntimeError, MemoryError) as problem:
        reason = " ".join(str(problem).split()) or type(problem).__name__
        return None, [f"Not checked: {reason}"]
    return CheckSummary(**{name: getattr(results, name) for name in SHORT}, page=REPORT), []


def _run(run: Provenance, seconds: float) -> Provenance:
    """How the check was made."""
    own = {"registration": "../run.json"}
    return run.model_copy(update={"command": f"{run.command}, then check", "settings": own, "seconds": seconds})
