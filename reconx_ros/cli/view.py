"""``reconx view``: a result, or a running node, in the browser; or a result as a Rerun recording."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconx_ros.cli.common import (
    EXIT_OK,
    EXIT_USAGE,
    add_common_arguments,
    add_drop_bad_argument,
    print_table,
    write_json,
)

if TYPE_CHECKING:
    from reconx_ros.viz.viewer.app import Viewer

_DEFAULT_POINTS = 1_000_000


def add_parser(commands: Any) -> None:
    """Add ``view`` to the commands."""
    parser = commands.add_parser(
        "view",
        help="look at a result, or at a running node, in the browser; or write it for Rerun",
        description="Serve a page with the cloud, the Gaussians, the cameras and the path of the novel views of a "
        "result folder, or of a running node. Ends with Ctrl-C.",
        epilog="example: reconx view out/kitchen",
    )
    parser.add_argument(
        "result", type=Path, nargs="?", help="result folder of reconx demo, replay or reconstruct, or a 3DGS .ply"
    )
    parser.add_argument("--live", action="store_true", help="show what a running reconx_node publishes")
    parser.add_argument("--node", default="reconx_node", help="name of that node, with its namespace")
    parser.add_argument("--server", default="reconstruction_server", help="name of the server that draws live views")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve on; 0.0.0.0 lets others on the network in"
    )
    parser.add_argument("--port", type=int, default=8080, help="TCP port; 0 takes any free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument(
        "--max-points", type=int, default=_DEFAULT_POINTS, metavar="N",
        help="points, and Gaussians, to show at most; the page says how many are left out",
    )  # fmt: skip
    parser.add_argument(
        "--rerun", type=Path, metavar="FILE.rrd", help="write the result for Rerun instead of serving it"
    )
    add_drop_bad_argument(parser)
    add_common_arguments(parser)
    parser.set_defaults(run=lambda arguments: run(arguments, parser))


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Serve or write, as asked."""
    if arguments.live == (arguments.result is not None):
        parser.print_usage()
        parser.exit(EXIT_USAGE, "reconx view: name a result folder, or give --live, one of the two\n")
    if arguments.rerun is not None:
        if arguments.live:
            parser.exit(EXIT_USAGE, "reconx view: --rerun writes a result folder; a live node has none yet\n")
        return _write_rerun(arguments)
    return _serve_live(arguments) if arguments.live else _serve_result(arguments)


def _write_rerun(arguments: argparse.Namespace) -> int:
    from reconx_ros.viz.viewer.data import load_result
    from reconx_ros.viz.viewer.rerun_export import write_rerun

    data = load_result(arguments.result, drop_bad=arguments.drop_bad)
    write_rerun(arguments.rerun, data)
    facts = {
        "file": str(arguments.rerun),
        "megabytes": round(arguments.rerun.stat().st_size / 1e6, 1),
        "points": len(data.cloud),
        "keyframes": len(data.keyframes),
        "novel_views": len(data.novel),
    }
    print_table("reconx view", [(name, str(value)) for name, value in facts.items()])
    print(f"open it with: rerun {arguments.rerun}")
    if arguments.json:
        write_json(arguments.json, facts)
    return EXIT_OK


def _serve_result(arguments: argparse.Namespace) -> int:
    from reconx_ros.viz.viewer.app import view_result
    from reconx_ros.viz.viewer.server import require_viser

    require_viser()
    viewer = view_result(
        arguments.result,
        drop_bad=arguments.drop_bad,
        host=arguments.host,
        port=arguments.port,
        budget=arguments.max_points,
    )
    return _until_interrupted(viewer, arguments, viewer.wait_closed)


def _serve_live(arguments: argparse.Namespace) -> int:
    from reconx_ros.ros.graph.environment import require_ros
    from reconx_ros.viz.viewer.app import Viewer
    from reconx_ros.viz.viewer.server import require_viser

    require_viser()
    require_ros()
    from reconx_ros.ros.tools.live_feed import LiveFeed

    with LiveFeed(arguments.node, server=arguments.server) as feed:
        viewer = Viewer(feed.data(), host=arguments.host, port=arguments.port, budget=arguments.max_points)
        return _until_interrupted(viewer, arguments, lambda: viewer.follow(feed))


def _until_interrupted(viewer: Viewer, arguments: argparse.Namespace, serve: Any) -> int:
    """Say where to look, then serve until Ctrl-C."""
    try:
        print(f"{viewer.url}  (Ctrl-C ends)", flush=True)
        if arguments.json:
            write_json(arguments.json, {"url": viewer.url})
        if not arguments.no_browser:
            webbrowser.open(viewer.url)
        serve()
    except KeyboardInterrupt:
        pass
    finally:
        viewer.close()
    return EXIT_OK
