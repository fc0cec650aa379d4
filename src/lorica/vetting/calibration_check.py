"""The calibration beside an adapter against the files that it was fitted for. No torch; nothing is believed."""

from __future__ import annotations

from lorica.adapters.config import CONFIG_NAME
from lorica.adapters.folder import WEIGHTS_NAME, digest_files
from lorica.adapters.raw_adapter import OWN_MODELS, RawAdapter
from lorica.calibration.saved import CALIBRATION_NAME, to_calibration
from lorica.errors import AdapterError
from lorica.vetting.findings import Finding, finding
from lorica.vetting.wording import shown


def check_calibration(specimen: RawAdapter) -> list[Finding]:
    """Whether calibration.json can be applied to this adapter; one that is no JSON is named where documents are read.
    Never raises for what is in the files."""
    if CALIBRATION_NAME not in specimen.documents:
        return []
    try:
        calibration = to_calibration(specimen.documents[CALIBRATION_NAME])
    except AdapterError as error:
        return [finding("L351", shown(error.message, 200), file=CALIBRATION_NAME)]
    findings = []
    decisive_files = OWN_MODELS.get(specimen.kind, (CONFIG_NAME, WEIGHTS_NAME))
    if all((specimen.folder / file_name).is_file() for file_name in decisive_files):
        try:
            adapter_digest = digest_files(specimen.folder, decisive_files)
        except OSError:
            return []  # a file that cannot be read is named where it is read
        if adapter_digest != calibration.adapter:
            actual = f"its config and weights have the digest {adapter_digest[:19]}..."
            expected = f"{calibration.adapter[:19]}..."
            findings.append(finding("L352", actual, expected=expected, file=CALIBRATION_NAME))
    if calibration.trained_rows:
        actual = f"{calibration.trained_rows} of its {calibration.rows.rows} rows"
        findings.append(finding("L353", actual, file=CALIBRATION_NAME))
    return findings
