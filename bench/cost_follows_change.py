"""Cost follows change: a sync with 1 % of the films changed against the first sync, and the first sync's memory at N and at 2 N films.

Generates a lake of N films, and fills the ClickHouse engine from it; then, round after round, touches a hundredth of the films, syncs
that, and fills an empty engine anew, so that both sides are measured in turn.

    python3 bench/cost_follows_change.py --films 1000000
"""

from pathlib import Path

import measure


def first(binary, config):
    """A first sync into an empty engine."""
    measure.remove(config.parent / "clickhouse")
    done = measure.sync(binary, config)
    measure.say(f"  first sync: {done.seconds:.2f} s, peak {done.peak_mib:.0f} MiB")
    return done


def lake(binary, made_before, directory, films):
    """A generated lake; answers the path of its films."""
    if made_before:
        return made_before.resolve() / "movies"
    made = measure.run([binary, "sample", directory, "--films", films, "--json"])
    measure.say(f"{films} films generated in {made.seconds:.0f} s")
    return directory / "movies"


def main():
    parser = measure.options(__doc__)
    parser.add_argument("--films", type=int, default=1_000_000, help="N (default %(default)s)")
    parser.add_argument("--changed", type=float, default=0.01, help="the fraction that changes (default %(default)s)")
    parser.add_argument("--lake", type=Path, help="a lake of N films, made before with `distributary sample DIR --films N`; it is changed")
    parser.add_argument("--lake-double", type=Path, help="a lake of 2 N films, made before")
    parser.add_argument("--no-double", action="store_true", help="leave out the lake of 2 N films")
    args = parser.parse_args()
    binary = measure.program(args.binary)
    with measure.workspace(args.work) as work:
        movies = lake(binary, args.lake, work / "lake", args.films)
        config = measure.configure(work / "once", {"movies": movies})
        firsts, changes = [], []
        for round_ in range(args.rounds):
            firsts.append(first(binary, config))
            measure.run([binary, "sample", movies.parent, "--touch", args.changed, "--seed", round_ + 1])
            done = measure.sync(binary, config)
            measure.say(f"  {args.changed:.0%} changed: {done.seconds:.2f} s, peak {done.peak_mib:.0f} MiB")
            table = done.json()["tables"][0]
            moved = sum(target["upserts"] + target["deletes"] for target in table["targets"])
            if table["strategy"] != "feed" or moved != round(args.films * args.changed):
                raise SystemExit(f"not what was to be measured: {table}")
            changes.append(done)
        measure.remove(work / "once")
        measure.remove(work / "lake")
        double = []
        if not args.no_double:
            config = measure.configure(work / "twice", {"movies": lake(binary, args.lake_double, work / "lake2", 2 * args.films)})
            double.append(first(binary, config))
        once, change = (measure.median([done.seconds for done in runs]) for runs in (firsts, changes))
        peak = max(done.peak_mib for done in firsts)
        goals = [
            ("changed sync / first sync, medians", round(change / once, 4), "<=", 0.05),
            ("peak memory of the first sync, MiB", round(peak), "<=", 2048),
        ]
        if double:
            goals.append(("peak memory at 2 N / at N", round(double[0].peak_mib / peak, 3), "<=", 1.1))
        rows = sum(target["upserts"] for target in firsts[0].json()["tables"][0]["targets"])
        measure.report(
            "cost_follows_change", args, goals, films=args.films, changed=args.changed, rows_first=rows,
            first_s=measure.rounded(done.seconds for done in firsts), changed_s=measure.rounded(done.seconds for done in changes),
            first_cpu_s=measure.rounded(done.cpu_seconds for done in firsts), changed_cpu_s=measure.rounded(done.cpu_seconds for done in changes),
            first_peak_mib=[round(done.peak_mib) for done in firsts], changed_peak_mib=[round(done.peak_mib) for done in changes],
            double_s=measure.rounded(done.seconds for done in double), double_peak_mib=[round(done.peak_mib) for done in double],
        )


if __name__ == "__main__":
    main()
