"""The audit says what is known, and that nothing is known where nobody could be asked."""

import json
import runpy
from pathlib import Path


def write_report(*rows: dict) -> str:
    return json.dumps({"dependencies": list(rows), "fixes": []})


def test_an_audit_that_could_not_ask_says_so_and_does_not_pass(project_root: Path) -> None:
    judge = runpy.run_path(str(project_root / ".ci" / "audit"))["judge"]
    clean, skipped = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}
    bad = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
    assert judge(write_report(clean), 1) == (0, ["1 packages: no vulnerability is known"])
    for report in ("", "Traceback", write_report(), write_report(skipped), write_report(clean, skipped)):
        code, (said,) = judge(report, 2)
        assert code == 3
        assert "could not be asked about" in said
    code, said = judge(write_report(clean, bad, skipped), 3)
    assert code == 1
    assert said[0] == "c 2: PYSEC-1, mended in 3"
