"""Look for broken files, duplicates, contradictions and leaks in a data set, whichever form it has.

python recipes/audit.py --data.root data/RadImageNet --report audit.html

Exit status: 0 when no picture is in two splits, 1 when splits leak (a file, a picture or a near-duplicate of it in two
splits; --fix does not change this), 2 when the command cannot be carried out.
"""

import argparse
from pathlib import Path

from ols.command_line import one_line_errors
from ols.data.sources.opening import find_form


def main() -> int:
    """Read the command line, audit, write the report and, when asked for, cleaned CSVs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root", required=True, help="what training takes, but no pack")
    parser.add_argument("--data.splits", dest="splits", help="folder with the CSVs, where it is not a usual place")
    parser.add_argument(
        "--report",
        type=Path,
        default=Path("audit.html"),
        help="page to write; JSON with every finding (.json) and the log of the scan (.scan.jsonl) lie beside it, and "
        "with the log a second start opens changed files only; default %(default)s",
    )
    parser.add_argument("--workers", type=int, help="processes; by default one for each core")
    parser.add_argument(
        "--fix",
        action="store_true",
        help="write CSVs without what was found into a folder `cleaned` beside the originals, which stay as they are: "
        "use them by --data.splits <folder>/cleaned. Files that cannot be used go, pictures under several labels go "
        "everywhere, and of every picture and its near-duplicates in other splits one stays: test before val before "
        "train",
    )
    arguments = parser.parse_args()
    if arguments.report.suffix not in (".html", ".htm"):
        parser.error(f"--report must end in .html, got {arguments.report}")

    with one_line_errors():
        find_form(arguments.root)

    from ols.audit import audit  # here, so that --help answers at once
    from ols.audit.clean import write_cleaned
    from ols.audit.page import text_summary, write_page

    report = arguments.report
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        log = report.with_suffix(".scan.jsonl")
        found = audit(arguments.root, splits=arguments.splits, log=log, workers=arguments.workers)
        print(f"{len(found.files):,} files are named, {found.opened:,} were opened now; {log} knows the others")
        print(text_summary(found))
        data = write_page(found, report)
        print(f"report   {report}, {data}")
        if arguments.fix:
            folder, dropped = write_cleaned(found)
            for split, reasons in dropped.items():
                for reason, count in reasons.most_common():
                    print(f"dropped  {split:5} {count:>9,}  {reason}")
            print(f"cleaned  {folder}: use it by --data.splits {folder}")
    except (OSError, ValueError, ImportError) as error:
        parser.error(str(error))
    return int(found.leaks)


if __name__ == "__main__":
    raise SystemExit(main())
