from ols.files import append_line
from ols.studies.jobs import Attempt, peak_bytes, read_attempts, record_end, record_start, total_seconds


def test_attempts_are_read_as_they_were_written_down_and_one_that_was_killed_has_no_end(tmp_path):
    assert read_attempts(tmp_path, "a") == []
    record_start(tmp_path, "a", "12_3")
    record_end(tmp_path, "a", "stopped", 2.04, 700)
    record_start(tmp_path, "a", "here")
    stopped = Attempt("12_3", "stopped", 2.0, 700)
    assert read_attempts(tmp_path, "a") == [stopped, Attempt("here")]
    append_line(tmp_path / "a.attempts.jsonl", '{"format": 1, "sta')
    record_start(tmp_path, "a", "here")
    record_end(tmp_path, "a", "done", 5.5)
    done = Attempt("here", "done", 5.5)
    assert read_attempts(tmp_path, "a") == [stopped, Attempt("here"), done]
    assert total_seconds([stopped, done]) == 7.5
    assert total_seconds([stopped, Attempt("here"), done]) is None
    assert total_seconds([]) is None
    assert peak_bytes([stopped, Attempt("here", "done", 5.5, 900), done]) == 900
    assert peak_bytes([done]) is None
