"""`skerry simulate bandwidth`: what each way of training asks of the links between sites."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from skerry.cli.complaints import as_typed
from skerry.cli.options import Maybe, parse
from skerry.cli.outputs import OutputOptions, emit, table
from skerry.config.amounts import count, listed
from skerry.core.policy import CodecName, Policy
from skerry.core.presets import preset
from skerry.errors import ConfigError, cannot_work
from skerry.report.pictures.bandwidth import DASHES, picture
from skerry.simulate.bandwidth import Job, Method, method
from skerry.world.links import Link

TARGETS = (50, 80, 90, 95, 99)
MOST_POINTS = 1000
UNITS = "like 10Mbit 1Tbit (units: bit, kbit, Mbit, Gbit, Tbit per second)"
EXAMPLES = """
skerry simulate bandwidth                                            a model of 12B parameters over eight sites
skerry simulate bandwidth --params 100B --step-s 5 --latency 50ms --out runs/bandwidth
skerry simulate bandwidth --interval 96 --bits 4                     what if values took four bits
skerry simulate bandwidth --backward 0.6 --bandwidth 1Gbit 1Tbit     data-parallel that hides its all-reduce
"""


@dataclass(frozen=True, kw_only=True)
class BandwidthCommand(OutputOptions):
    """Traffic between sites, the share of time computing over the links' bandwidth, and the bandwidth that a share of
    50 to 99 % needs: for data-parallel, DiLoCo, Streaming DiLoCo and Decoupled DiLoCo. Formulas: docs/simulate.md.

    figures:
      up_gbit, down_gbit     of a site's link on average, Gbit/s; peak: what falls due in the fullest step, over its time
      syncer_gbit            the busier direction of all sites together, Gbit/s
      50% ... 99%            bandwidth of a site's link that such a share of time computing needs, Gbit/s
      utilisation            time computing (% in the table, a share in JSON and CSV)
      rounds                 decoupled: those that reach the site (% in the table, a share in JSON and CSV)
      lag_steps              steps from hand-over to take-over
      limit                  what keeps the two from being all: bandwidth, latency, or nothing (computing)"""

    params: str = "12B"  # trainable parameters of the model
    step_s: float = 1.0  # seconds of a step's computing
    sites: int = 8  # M: each with one learner
    fragments: Maybe[int] = None  # P of streaming and decoupled; none: each preset's own
    interval: Maybe[int] = None  # H of all but data-parallel; none: each preset's own
    overlap: Maybe[int] = None  # tau of streaming and decoupled; none: each preset's own
    codec_up: CodecName = Policy.codec_up  # of contributions
    codec_down: CodecName = Policy.codec_down  # of delivered values
    bits: Maybe[float] = None  # bits a parameter instead of the codecs', to see what a shorter one would bring
    gradient_bits: float = Job.gradient_bits  # of data-parallel's gradients
    backward: float = Job.backward  # share of a step beside which data-parallel's all-reduce runs
    latency: tuple[str, ...] = ("10ms", "100ms")  # of the links, one way; each is reckoned with
    bandwidth: tuple[str, ...] = ("10Mbit", "1Tbit")  # of the links, from and to
    points: int = 31  # bandwidths between these two, evenly on a logarithmic scale


class Named(NamedTuple):
    """One of the methods compared."""

    name: str
    about: str
    method: Method


def main(arguments: list[str]) -> int:
    """The command."""
    command = parse(BandwidthCommand, arguments, command="simulate bandwidth", examples=EXAMPLES)
    names = {field.name: field.name for field in fields(command)}
    with as_typed(command, names | {f"policy.{name}": name for name in names}):
        methods, job, bandwidths = compared(command), _job(command), _bandwidths(command)
        latencies = _latencies(command)
    rows = [_row(named, latency, bandwidth, job)
            for latency in latencies for named in methods for bandwidth in bandwidths]  # fmt: skip
    demand = [_demand(named, job) for named in methods]
    needed = [{"method": named.name, "latency_s": latency,
               **{f"{share}%": named.method.needed(latency, share / 100) / 1e9 for share in TARGETS}}
              for latency in latencies for named in methods]  # fmt: skip
    about = f"{job.params:,} parameters, {job.sites} sites, a step computes {job.step_s:g} s"
    emit(command, "bandwidth", rows, text=_text(about, methods, demand, needed, rows),
         more={"about": about, "methods": {named.name: named.about for named in methods}, "demand": demand, "needed": needed},
         draw=lambda: picture(about, rows, demand))  # fmt: skip
    return 0


def compared(command: BandwidthCommand) -> list[Named]:
    """The four methods with their settings. Raises ConfigError if a policy cannot run."""
    given = {name: value for name in ("interval", "fragments", "overlap") if (value := getattr(command, name)) is not None}
    codecs: dict[str, Any] = {"codec_up": command.codec_up, "codec_down": command.codec_down}
    job = _job(command)
    found = [Named("data-parallel", f"{job.gradient_bits:g} bits a gradient", method(None, job))]
    for name in ("diloco", "streaming", "decoupled"):
        own = {key: value for key, value in given.items() if name != "diloco" or key == "interval"}
        policy = preset(name, **own, **codecs)
        bits = f"{job.bits:g} bits" if job.bits is not None else f"{policy.codec_up} up, {policy.codec_down} down"
        about = f"P = {policy.fragments}, H = {policy.interval}, tau = {policy.overlap}, {bits}"
        found.append(Named(name, about, method(policy, job)))
    return found


def _job(command: BandwidthCommand) -> Job:
    return Job(params=count("params", command.params), step_s=command.step_s, sites=command.sites, bits=command.bits,
               gradient_bits=command.gradient_bits, backward=command.backward)  # fmt: skip


def _latencies(command: BandwidthCommand) -> list[float]:
    try:
        found = [Link.parse(text).latency for text in listed("latency", command.latency)]
    except ConfigError:
        found = []
    if not 1 <= len(found) <= len(DASHES):
        raise cannot_work("latency", command.latency, f"give 1 to {len(DASHES)}, like 10ms 100ms (units: us, ms, s)")
    return found


def _bandwidths(command: BandwidthCommand) -> list[float]:
    try:
        first, last = (Link.parse(f"0s,{text}").bandwidth for text in listed("bandwidth", command.bandwidth))
    except (ConfigError, ValueError):  # ValueError: not two
        first = last = math.inf
    if not first < last < math.inf:
        raise cannot_work("bandwidth", command.bandwidth, f"give a smaller and a larger one, {UNITS}")
    if not 2 <= command.points <= MOST_POINTS:
        raise cannot_work("points", command.points, f"give 2 to {MOST_POINTS}")
    return [first * (last / first) ** (i / (command.points - 1)) for i in range(command.points)]


def _demand(named: Named, job: Job) -> dict[str, Any]:
    """Of a site that nothing holds up; the syncer sends and receives all of it."""
    traffic, syncer = named.method.traffic, 0 if named.name == "data-parallel" else job.sites
    average = [8 * nbytes / traffic.steps / job.step_s / 1e9 for nbytes in (traffic.up, traffic.down)]
    peak = [8 * nbytes / job.step_s / 1e9 for nbytes in (traffic.peak_up, traffic.peak_down)]
    return {"method": named.name, "up_gbit": average[0], "down_gbit": average[1], "peak_up_gbit": peak[0],
            "peak_down_gbit": peak[1], "syncer_gbit": syncer * max(average) if syncer else None}  # fmt: skip


def _row(named: Named, latency: float, bandwidth: float, job: Job) -> dict[str, Any]:
    steady, traffic = named.method.steady(Link(latency=latency, bandwidth=bandwidth)), named.method.traffic
    peak = 8 * max(traffic.peak_up, traffic.peak_down) / job.step_s
    return {"method": named.name, "latency_s": latency, "bandwidth_gbit": bandwidth / 1e9, "utilisation": steady.utilisation,
            "rounds": steady.rounds, "lag_steps": steady.lag, "up_gbit": steady.up / 1e9, "down_gbit": steady.down / 1e9,
            "peak_gbit": min(bandwidth, peak) / 1e9, "limit": steady.limit}  # fmt: skip


def _text(about: str, methods: list[Named], demand: list[dict[str, Any]], needed: list[dict[str, Any]],
          rows: list[dict[str, Any]]) -> str:  # fmt: skip
    """What a terminal shows: at most eleven bandwidths, and latencies side by side only where they are few."""
    bandwidths = sorted({row["bandwidth_gbit"] for row in rows})
    shown = set(bandwidths[:: math.ceil(len(bandwidths) / 11)])
    shares: dict[tuple[float, float], dict[str, Any]] = {}
    for row in rows:
        if row["bandwidth_gbit"] in shown:
            line = shares.setdefault((row["latency_s"], row["bandwidth_gbit"]),
                                     {"latency_s": row["latency_s"], "Gbit/s": row["bandwidth_gbit"]})  # fmt: skip
            line[row["method"]] = round(100 * row["utilisation"], 1)
            if row["method"] == "decoupled":
                line["rounds"] = round(100 * row["rounds"], 1)
                line["decoupled is limited by"] = row["limit"]
    return "\n".join([
        about, *(f"  {named.name:<14} {named.about}" for named in methods),
        "", "traffic of a site that nothing holds up, Gbit/s (peak: what falls due in the fullest step, over a step's time):",
        table(demand),
        "", "bandwidth needed for a share of time computing, Gbit/s (decoupled always computes: for all of its rounds):",
        table(needed),
        "", "time computing, % (decoupled: and the share of its rounds that reach the site):", table(list(shares.values())),
    ])  # fmt: skip
