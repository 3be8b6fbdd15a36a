"""Stands in for a launcher: records the command line, behaves as its environment says, leaves what a run leaves.

Environment: STUDY_RECORD, a folder. `calls` in it receives a line per start. `<run>.fail` makes a run fail.
`<run>.hold` makes it wait until that file is gone or SIGTERM comes, which it survives by leaving a checkpoint and
ending well. `<run>.stop` makes it first send SIGTERM to whoever started it. `<run>.yaml` is the configuration that it
writes.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

record = Path(os.environ["STUDY_RECORD"])
script, *arguments = sys.argv[1:]
if Path(script).name in ("evaluate.py", "columns.py"):
    name, run_dir = f"{Path(script).stem}-{Path(arguments[0]).name}", None
else:
    (run_dir,) = (Path(a.removeprefix("--run_dir=")) for a in arguments if a.startswith("--run_dir="))
    name = run_dir.name
with (record / "calls").open("a") as calls:
    calls.write(f"{name} {os.getpid()} {os.getpgid(0)} {' '.join(arguments)}\n")

stopped = []
signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
print(f"this is {name}")
if (record / f"{name}.fail").exists():
    print("out of memory")
    sys.exit(3)
if (record / f"{name}.stop").exists():
    (record / f"{name}.stop").unlink()
    os.kill(os.getppid(), signal.SIGTERM)
while (record / f"{name}.hold").exists() and not stopped:
    time.sleep(0.05)
if Path(script).name == "evaluate.py":
    (Path(arguments[0]) / "evaluation").mkdir()
    (Path(arguments[0]) / "evaluation" / "test.safetensors").touch()
elif Path(script).name == "columns.py":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from ols.files import write_record
    from ols.studies.columns import asked_columns, parse_column_options

    asked = asked_columns(parse_column_options(arguments))
    write_record(Path(arguments[0]) / "columns.json", {"asked": asked, "columns": {"similarity/stem/cka": 0.5}})
else:
    (run_dir / "checkpoints" / "epoch-0001").mkdir(parents=True, exist_ok=True)
    shutil.copy(record / f"{name}.yaml", run_dir / "config.yaml")
    if not stopped:
        (run_dir / "export").mkdir()
        (run_dir / "export" / "config.json").touch()
