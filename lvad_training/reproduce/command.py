"""The command ``lvad-train reproduce``: its options and the list of tables."""

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path

from lvad_perception.command_line import STATUS_INTERRUPTED
from lvad_perception.errors import ConfigError
from lvad_training.recipe.presets import PRESETS


def add_reproduce(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of ``lvad-train``."""
    parser = commands.add_parser(
        "reproduce",
        help="run the rows of one of the paper's tables",
        description="Run the missing rows of a table, which share teachers and pseudo labels, and write Markdown and "
        "HTML with ours beside the paper's figures. After an interruption the same command continues.",
        epilog="example: lvad-train reproduce table1 --recipe config/reproduce_tiny.yaml --data ROOT --seeds 3",
    )
    parser.add_argument("table", nargs="?", help="table1, table2, ...; --list prints them all")
    parser.add_argument("--list", action="store_true", help="print the tables and their rows")
    parser.add_argument("--data", type=Path, help="data set in BDD100K's layout; for table11 nuImages")
    parser.add_argument("--recipe", type=Path, help="base recipe (YAML); without it the preset's defaults, 36 epochs")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="architecture (default: the recipe's, else r50)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="train with seeds 0 to N - 1 (default: 1)")
    parser.add_argument(
        "--first-seed",
        type=int,
        default=0,
        metavar="K",
        help="train with seeds K to N - 1, as when seeds are spread over machines that share --out (default: 0)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override one key of the base recipe"
    )
    parser.add_argument("--adapt", action="store_true", help="table1: also its first five methods with the adapt stage")
    parser.add_argument("--smoke", action="store_true", help="the smallest size; without --data on rendered images")
    parser.add_argument("--out", type=Path, help="folder to write (default: runs/reproduce, or runs/smoke)")
    parser.add_argument(
        "--weights-dir",
        type=Path,
        metavar="DIR",
        help="table2, table8: folder of published backbones (docs/backbones.md)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(run=_reproduce)


def _reproduce(options: argparse.Namespace) -> int:
    from lvad_training.reproduce.base import SMOKE_IMAGES, base_recipe
    from lvad_training.reproduce.run import reproduce
    from lvad_training.reproduce.tables import ADAPTED_ROWS, TABLES, with_files
    from lvad_training.training import stages

    if options.list:
        print(list_of_tables())
        return 0
    if options.table not in TABLES:
        asked = f"there is no {options.table!r}" if options.table else "no table was named"
        raise ConfigError(f"reproduce: {asked}; choose one of {', '.join(TABLES)}, or look at them with --list")
    if options.seeds < 1:
        raise ConfigError("--seeds must be at least 1")
    if not 0 <= options.first_seed < options.seeds:
        raise ConfigError(
            f"--first-seed must be between 0 and {options.seeds - 1}, the last of --seeds {options.seeds}"
        )
    if options.adapt and options.table != "table1":
        raise ConfigError(f"--adapt: {options.table} has its rows with adapt already; leave it out")
    if options.smoke and (options.recipe or options.preset):
        raise ConfigError("--smoke is a recipe of its own; leave out --recipe and --preset, and change it with --set")
    table = TABLES[options.table]
    if options.adapt:
        table = dataclasses.replace(table, rows=(*table.rows, *ADAPTED_ROWS))
    needs_files = bool(table.pretrainings)
    if needs_files != (options.weights_dir is not None):
        wrong = "its rows have no published backbones; leave it out"
        needed = "give --weights-dir, a folder of published backbones; docs/backbones.md says where each is"
        raise ConfigError(f"{table.name}: {needed if needs_files else f'--weights-dir: {wrong}'}")
    out = options.out or Path("runs/smoke" if options.smoke else "runs/reproduce")
    data = options.data
    if options.smoke and data is None:
        from lvad_training.sample_set import render_sample_set
        from lvad_training.training.processes import this_process

        data = out / ("data" if table.vocabulary == "bdd100k" else f"data-{table.vocabulary}")
        if this_process().is_main_process:
            render_sample_set(data, images=SMOKE_IMAGES, seed=0, size_hw=(90, 160), layout=table.vocabulary)
        this_process().wait_for_everyone()
    if data is None and options.recipe is None:
        layout = "nuImages" if table.vocabulary == "nuimages" else "a data set in BDD100K's layout"
        raise ConfigError(f"reproduce: give --data, {layout}, or --recipe, or try it with --smoke")
    base = base_recipe(
        recipe=options.recipe,
        preset=options.preset,
        data=data,
        smoke=options.smoke,
        overrides=options.set,
        published=needs_files,
        vocabulary=table.vocabulary,
    )
    if options.weights_dir is not None:
        table = with_files(table, options.weights_dir, base.model.backbone, log=print)
    try:
        page = reproduce(
            table,
            base,
            out=out,
            seeds=options.seeds,
            first_seed=options.first_seed,
            runner=stages,
            command=command_line(options),
            smoke=options.smoke,
            progress=not options.quiet and sys.stderr.isatty(),
        )
    except KeyboardInterrupt:
        print("lvad-train: interrupted; the same command continues", file=sys.stderr)
        return STATUS_INTERRUPTED
    finally:
        stages.close()
    main_table = page.with_suffix(".md").read_text(encoding="utf-8").partition("\n## Everything")[0]
    print(f"\n{main_table}\npage: {page}")
    return 0


def list_of_tables() -> str:
    """All tables with their rows and settings, as text."""
    from lvad_training.reproduce.render import heading
    from lvad_training.reproduce.tables import TABLES

    lines = []
    for table in TABLES.values():
        lines += ["", f"{table.name:<9} {heading(table).partition(': ')[2]}"]
        lines += [f"    {row.key:<34} {row.title:<36} {row.setting}" for row in table.rows]
    return "\n".join(lines[1:])


def command_line(options: argparse.Namespace) -> str:
    """The command line of these options."""
    words: list[object] = ["lvad-train", "reproduce", options.table]
    for name in ("recipe", "preset", "data"):
        words += [f"--{name}", getattr(options, name)] if getattr(options, name) is not None else []
    words += ["--seeds", options.seeds] if options.seeds != 1 else []
    words += ["--first-seed", options.first_seed] if options.first_seed else []
    words += [f"--{name}" for name in ("smoke", "adapt") if getattr(options, name)]
    words += ["--weights-dir", options.weights_dir] if options.weights_dir is not None else []
    words += [word for text in options.set for word in ("--set", text)]
    words += ["--out", options.out] if options.out is not None else []
    return shlex.join(map(str, words))
