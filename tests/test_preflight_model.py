"""What preflight makes of a compiled module: text read, formulas, and what would make it fit."""

import types

import pytest

from byol_jax.config import default_config
from byol_jax.experiment.methods import Facts
from byol_jax.preflight import hlo, model, network, remedies, table
from byol_jax.preflight.hardware import KINDS, SLICES, Topology, sides_of, slice_devices
from byol_jax.preflight.lower import Lowered


def slice_of(kind, shape):
    device = KINDS[kind]
    devices = [None] * slice_devices(kind, shape)
    return Topology(f"{kind}:{shape}", device, devices, len(devices) // 8, sides_of(kind, shape))


HLO = """\
HloModule jit_step, is_scheduled=true

%body (p: (f32[8])) -> (f32[8]) {
  %ar.1 = (f32[8]{0}, bf16[4]{0}) all-reduce(f32[8]{0} %a, bf16[4]{0} %b), channel_id=1, replica_groups=mesh['x'=2,'y'=4] {'y'}
  %f.1 = f32[8]{0} fusion(%ar.1), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"100"}
}

%inner (p: f32[8]) -> f32[8] {
  %ag.1 = f32[8]{0} all-gather(f32[4]{0} %c), channel_id=2, replica_groups=[4,2]<=[8]
}

%all-reduce-scatter (input: bf16[16]) -> bf16[4] {
  %ar.2 = bf16[16]{0} all-reduce(%input), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %w = (f32[8]) while(%t), condition=%cond, body=%body
  %s = (bf16[8]{0}, bf16[16]{0}) all-gather-start(bf16[8]{0} %c), channel_id=4, dimensions={0}
  %d = bf16[16]{0} all-gather-done(%s), backend_config={"estimated_cycles":"7"}
  %again = f32[8]{0} all-gather(f32[4]{0} %c), channel_id=2, replica_groups=[4,2]<=[8]
  %p = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(f32[4]{0} %e), channel_id=5
  ROOT %r = f32[2]{0} reduce-scatter(f32[16]{0} %e), replica_groups={}, dimensions={0}
}
"""  # noqa: E501


def test_bytes_of_hlo_text():
    """Fails if a dtype is taken for another."""
    assert hlo.shape_bytes("(f32[2,3]{1,0:T(8,128)}, bf16[5]{0}, pred[4], s32[])") == 42


def test_collectives_of_hlo_text():
    """Fails if a kind, size, group or loop is misread, or one collective counts twice."""
    assert hlo.collectives(HLO, 8) == [
        hlo.Collective("all-reduce", 40, 4, True),
        hlo.Collective("all-gather", 32, 2, True),  # of a fusion in the loop
        hlo.Collective("reduce-scatter", 32, 4),
        hlo.Collective("all-gather", 32, 8),  # the start's result, not its operand as well
        hlo.Collective("collective-permute", 16, 8),
        hlo.Collective("reduce-scatter", 64, 8),  # of the whole array, not a share
    ]
    found = hlo.summary(hlo.collectives(HLO, 8), rounds=3)
    assert found["all-reduce"] == {"count": 3, "mb": pytest.approx(120e-6)}
    assert found["all-gather"] == {"count": 4, "mb": pytest.approx(128e-6)}
    assert found["reduce-scatter"]["count"] == 2


def test_cycles_of_hlo_text():
    """Fails if the cycles of a loop count once."""
    assert hlo.estimated_cycles(HLO) == 107
    assert hlo.estimated_cycles(HLO, rounds=3) == 307


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total "
            "memory required for HLO temporaries (20.50G) exceeds available HBM (7.48G). HLO",
            (20.5, 7.48),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 900.0M of 0.5G hbm. "
            "Exceeded hbm capacity by 388.0M.",
            (900 / 1024, 0.5),
        ),
        ("INTERNAL: something else", None),
        ("RESOURCE_EXHAUSTED: out of something else", None),
    ],
)
def test_out_of_memory(message, expected):
    """Fails if a unit is lost, or another error is taken for too little memory."""
    assert hlo.out_of_memory(message) == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    ("kind", "shape", "sides", "devices"),
    [
        ("v3", "16x16", ((16, False), (16, False)), 512),
        ("v3", "16x32", ((16, False), (32, True)), 1024),
        ("v4", "4x4x8", ((4, True), (4, True), (8, True)), 128),
        ("v4", "2x4x4", ((2, False), (4, False), (4, False)), 32),
        ("v5e", "8x16", ((8, False), (16, True)), 128),
        ("v5p", "2x2x1", ((2, False), (2, False)), 4),
        ("v6e", "1x1", (), 1),
    ],
)
def test_sides_of_slices(kind, shape, sides, devices):
    """Fails if a line counts as a ring, or a chip of two cores as one device."""
    assert shape in SLICES[kind]
    assert sides_of(kind, shape) == sides
    assert slice_devices(kind, shape) == devices


def test_collectives_by_hand():
    """Fails if a factor of 2, the number of links or the hops of a formula is lost."""
    pod = slice_of("v3", "16x16")  # 256 chips, a link each way is 82 GB/s, neither side a ring
    way = 80e6 * 255 / 256 / (2 * 82e9) + 30e-6
    assert network.seconds("all-reduce", 80e6, 512, pod) == pytest.approx(2 * way)
    assert network.seconds("reduce-scatter", 80e6, 512, pod) == pytest.approx(way)
    line = 80e6 * 3 / 4 / 82e9 + 3e-6  # 8 cores are 4 chips in a line
    assert network.seconds("all-gather", 80e6, 8, pod) == pytest.approx(line)
    assert network.seconds("all-reduce", 45e6, 2, pod) == pytest.approx(2e-4)  # in one chip
    assert network.seconds("collective-permute", 82e6, 512, pod) == pytest.approx(1.001e-3)
    cube = slice_of("v4", "4x4x8")  # 128 chips, rings, 2 + 2 + 4 hops
    way = 1e6 * 127 / 128 / (6 * 45e9) + 8e-6
    assert network.seconds("all-reduce", 1e6, 128, cube) == pytest.approx(2 * way)
    assert network.seconds("all-reduce", 1e6, 1, cube) == 0
    assert network.seconds("all-reduce", 1e6, 4, Topology("", KINDS["cpu"], [], 1)) == 0


def test_collectives_of_gpus_by_hand():
    """Fails if cards of several hosts are taken to share one."""
    one = Topology("", KINDS["h100"], [None] * 8, 1)
    expected = 2 * 9e6 * 7 / 8 / 450e9 + 10e-6
    assert network.seconds("all-reduce", 9e6, 8, one) == pytest.approx(expected)
    two = Topology("", KINDS["a100"], [None] * 16, 2)
    expected = 2 * 9e6 * 7 / 8 / 300e9 + 2 * 9e6 / 8 / 2 / 25e9 + 20e-6
    assert network.seconds("all-reduce", 9e6, 16, two) == pytest.approx(expected)


def modelled(cost, *, text="", error="", accumulate=1, temp=2.0, where=None):
    """Figures of a step of 1 GiB of parameters and 10 steps, compiled by a stand-in."""
    config = default_config()
    config.batch_size, config.optimizer.accumulate = 512, accumulate
    facts = Facts(examples=5120, classes=0, steps=10, steps_per_epoch=10)
    e = types.SimpleNamespace(config=config, facts=facts)
    memory = {"argument": 2**30, "output": 2**30, "alias": 2**30, "generated_code": 0}
    compiled = model.Compiled(memory | {"temp": int(temp * 2**30)}, cost, text, 1.0, error)
    lowered = Lowered(None, e, {"parameters": 2**29}, 2**29)
    return model.figures(lowered, where or slice_of("v3", "16x16"), compiled)


def test_times_by_hand():
    """Fails if a time is of another unit, or shares and hours are of another time."""
    cost = {"flops": 6.15e11, "bytes accessed": 9e9, "optimal_seconds": 0.025}
    text = 'ENTRY %m (p: f32[]) -> f32[] {\n  %f = f32[] x(), {"estimated_cycles":"28200000"}\n}'
    f = modelled(cost, text=text)
    assert f["ms"] == pytest.approx(
        {"compiler": 25.0, "schedule": 30.0, "roofline": 20.0, "network": 0.0}
    )
    assert f["modelled_ms"] == pytest.approx(30.0)
    assert f["share_of_peak"] == pytest.approx(1 / 3)
    assert f["pairs_per_s"] == pytest.approx(512 / 0.030)
    assert f["pairs_per_s_host"] == pytest.approx(512 / 0.030 / 64)
    assert f["hours"] == pytest.approx(0.3 / 3600)
    assert f["device_hours"] == pytest.approx(512 * 0.3 / 3600)
    assert f["memory_gib"] == pytest.approx(
        {
            "parameters": 0.5,
            "padding of arguments": 0.5,
            "temporary": 2.0,
            "output, not in place": 0.0,
            "program": 0.0,
        }
    )
    assert f["state_gib"] == 0.5
    assert f["fits"]
    assert "12.48 GiB left" in table.report(f)
    assert "30.00 ms" in table.report(f)


def test_the_network_is_added():
    """Fails if collectives take no time, or those of a loop are sent once."""
    cost = {"flops": 6.15e11, "bytes accessed": 9e9, "optimal_seconds": 0.025}
    f = modelled(cost, text=HLO, accumulate=4, where=slice_of("v3", "2x2"))
    kinds = f["collectives"]
    assert kinds["all-reduce"]["count"] == 4
    once = network.seconds("all-reduce", 40, 4, slice_of("v3", "2x2"))
    assert kinds["all-reduce"]["ms"] == pytest.approx(4e3 * once)
    assert f["ms"]["network"] == pytest.approx(sum(c["ms"] for c in kinds.values()))
    assert f["modelled_ms"] == pytest.approx(f["ms"]["schedule"] + f["ms"]["network"])
    assert f["tflop"] == pytest.approx(4 * 0.615)


@pytest.mark.parametrize("optimal", [-34.0, 0.0, 0.009])
def test_a_time_that_is_not_sane(optimal):
    """Fails if a negative time, or one below that of the arithmetic, is believed."""
    f = modelled({"flops": 6.15e11, "bytes accessed": 9e9, "optimal_seconds": optimal})
    assert f["ms"]["compiler"] is None
    assert f["ms"]["schedule"] is None
    assert f["modelled_ms"] == pytest.approx(20.0)


OOM = "RESOURCE_EXHAUSTED: required for HLO temporaries (20.00G) exceeds available HBM (15.48G)"


def test_a_program_that_does_not_fit():
    """Fails if the arguments are left out, or a program that compiles fits at any size."""
    f = modelled({}, error=OOM)
    assert (f["fits"], f["tflop"], f["modelled_ms"]) == (False, None, None)
    assert f["hbm_gib"] == pytest.approx(20.5)
    assert "DOES NOT FIT, 5.02 GiB too much" in table.report(f)
    assert not modelled({"flops": 1.0}, temp=15.0)["fits"]
    assert "NO" in table.comparison([f, modelled({"flops": 1e12, "bytes accessed": 9e9})])


def large_batch():
    config = default_config()
    config.batch_size = 4096
    return config


def failing(**memory):
    gib = {"parameters": 1.0, "target": 1.0, "optimizer": 1.0, "temporary": 28.0} | memory
    return {
        "topology": "v3:8x8",
        "devices": 128,
        "hbm_gib": sum(gib.values()),
        "hbm_limit_gib": 15.48,
        "memory_gib": gib,
        "state_gib": sum(gib.values()) - gib["temporary"],
        "fits": False,
    }


def searched(config, failed, fits, tries=5):
    """What was tried, where `fits` says what fits."""
    said = []

    def examine(changed, name):
        ok = fits(changed, name)
        return {"fits": ok, "modelled_ms": 5.0, "hbm_gib": 10.0 if ok else 20.0} | {
            "hbm_limit_gib": 15.48
        }

    return remedies.search(config, failed, examine, said.append, tries), said


def test_what_makes_it_fit():
    """Fails if a way is not tried by compiling just that, or its size does not follow."""
    config = large_batch()
    tried, said = searched(config, failing(), lambda c, name: c.encoder.remat)
    ways = [(t["change"], t["figures"] and t["figures"]["fits"]) for t in tried]
    assert ways == [
        ("--topology=v3:16x16", False),  # 31 of 15.48 GiB: twice is not enough
        ("--config.encoder.remat=True", True),
        ("--config.optimizer.accumulate=4", False),
        ("--config.mesh.fsdp=8", None),
    ]
    assert "whole state is 3.00 GiB, but 15.52 GiB are missing" in tried[3]["skipped"]
    assert len(said) == 3
    assert not config.encoder.remat
    text = table.remedies(tried)
    assert "5.48 GiB left, 5.0 ms per step (modelled)" in text
    assert "none of these fits" not in text


def test_all_ways_together():
    """Fails if more than `tries` are compiled, or what only helps together is not found."""
    config = large_batch()
    lacks = failing(parameters=6.0, temporary=9.0)  # 17 of 15.48 GiB, 8 of them state

    def fits(c, name):
        return bool(c.encoder.remat and c.mesh.fsdp == 8)

    tried, said = searched(config, lacks, fits)
    assert [t["figures"]["fits"] for t in tried] == [False, False, False, False, True]
    assert tried[-1]["keys"].keys() == {"encoder.remat", "optimizer.accumulate", "mesh.fsdp"}
    assert len(said) == 5
    tried, said = searched(config, lacks, fits, tries=2)
    assert len(said) == 2
    assert [bool(t["skipped"]) for t in tried] == [False, False, True, True]
    assert "none of these fits" in table.remedies(tried)


def test_ways_that_there_are_not():
    """Fails if a batch is cut where it cannot be, or a pod named that does not exist."""
    config = default_config()
    config.batch_size, config.encoder.remat, config.mesh.fsdp = 128, True, 2
    tried, said = searched(config, failing(), lambda c, name: True)
    assert not said
    assert [bool(t["skipped"]) for t in tried] == [True, True, True]


def test_a_way_that_the_config_refuses():
    """Fails if an encoder that knows no remat ends the search, or remat is among all at the end."""

    def fits(c, name):
        if c.encoder.remat:
            raise ValueError("no residual blocks")
        return False

    tried, said = searched(large_batch(), failing(parameters=6.0, temporary=9.0), fits)
    assert [t["figures"] is None for t in tried] == [False, True, False, False, False]
    assert tried[1]["skipped"] == "no residual blocks"
    assert tried[-1]["keys"].keys() == {"optimizer.accumulate", "mesh.fsdp"}
    assert len(said) == 5
