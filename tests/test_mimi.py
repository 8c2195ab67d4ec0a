"""Mimi against transformers on the same random weights: codes equal, sound within rounding."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("moshi")
pytest.importorskip("transformers")

import moshi.utils.compile  # noqa: E402
import tiny_csm  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import device.voice.mimi  # noqa: E402
from device.turn import FRAME  # noqa: E402
from device.voice.mimi import BLOCK, Mimi, from_csm, from_kyutai  # noqa: E402
from device.voice.plain import VoiceFault  # noqa: E402

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_filters": 4,
    "codebook_size": 64,
    "codebook_dim": 16,
    "vector_quantization_hidden_dimension": 16,
    "num_quantizers": 6,
    "upsample_groups": 32,
    "sliding_window": 13,  # 6.5 frames: reached within these tests, as 125 frames are in a real answer
}
ODD = TINY | {
    "num_key_value_heads": 1,
    "num_residual_layers": 2,
    "use_conv_shortcut": True,
    "upsampling_ratios": [6, 8, 4, 5],
    "kernel_size": 5,
    "last_kernel_size": 5,
    "residual_kernel_size": 5,
    "dilation_growth_rate": 3,
    "compress": 4,
    "num_semantic_quantizers": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that share their cores with others wait for each other: 20 times slower (measured)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def enliven(codec: Any) -> Any:
    """Attention and codebooks that matter: fresh layer scales are 0.01, codebooks all zeros.

    The first codebook of each kind is spread like the latents of noise, later ones finer.
    """
    torch.manual_seed(2)
    codec.eval()
    for name, tensor in codec.state_dict().items():
        if name.endswith("layer_scale.scale"):
            tensor.normal_()
        elif name.endswith(("_proj.weight", "fc1.weight", "fc2.weight")) and tensor.dim() == 2:
            tensor.normal_(std=2.0 / tensor.shape[1] ** 0.5)
    quantizer = codec.quantizer
    with torch.inference_mode():
        found = codec.encoder(torch.from_numpy(noise(100 * FRAME))[None, None])
        if isinstance(found, torch.Tensor):  # up to transformers 5.20 the encoder is its first part alone
            latents = codec.downsample(codec.encoder_transformer(found.transpose(1, 2))[0].transpose(1, 2))
        else:
            latents = found.latents
    for part in (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer):
        with torch.inference_mode():
            spread, middle = torch.std_mean(part.input_proj(latents)[0], dim=1)
        for depth, layer in enumerate(part.layers):
            book = layer.codebook
            book.cluster_usage.uniform_(0.5, 2.0)
            points = torch.randn_like(book.embed_sum) * spread * 0.8**depth + (middle if depth == 0 else 0)
            book.embed_sum.copy_(points * book.cluster_usage[:, None])
    return codec


def built(folder: Path, config: dict[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """transformers' codec, its config.json and its tensors as stored."""
    from transformers import MimiConfig, MimiModel

    torch.manual_seed(1)
    codec = enliven(MimiModel(MimiConfig(**config)))
    codec.save_pretrained(folder)
    return codec, json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


@pytest.fixture(scope="module", params=[TINY, ODD], ids=["tiny", "odd"])
def each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    return built(tmp_path_factory.mktemp("mimi"), request.param)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    return built(tmp_path_factory.mktemp("mimi"), TINY)


@pytest.fixture
def mimi(tiny: tuple[Any, ...]) -> Mimi:
    return from_csm(tiny[1], tiny[2], "cpu", 6)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Noise that swells and fades, so that frames differ."""
    rng = np.random.default_rng(seed)
    swell = np.sin(np.arange(samples) / 7_000) + 0.1
    return (rng.normal(size=samples) * swell * 0.3).astype(np.float32)


def theirs(codec: Any, sound: np.ndarray) -> Any:
    with torch.inference_mode():
        return codec.encode(torch.from_numpy(sound)[None, None]).audio_codes[0].T


def spoken(mimi: Mimi, codes: Any) -> np.ndarray:
    return np.concatenate([mimi.decode(frame) for frame in codes])


def assert_same_sound(found: np.ndarray, wanted: Any) -> None:
    wanted = np.asarray(wanted)
    loud = np.abs(wanted).max()
    assert found.shape == wanted.shape
    assert loud > 0.01
    assert np.abs(found - wanted).max() < 1e-4 * max(1.0, loud) * min(1.0, loud)


def test_codes_are_those_of_transformers_to_the_last_incomplete_frame(each: tuple[Any, ...]) -> None:
    codec, config, tensors = each
    mimi = from_csm(config, tensors, "cpu", 6)
    for frames, rest in [(0, 1), (0, 5), (0, 960), (0, 961), (1, 0), (1, 1), (2, 719), (3, 1919), (60, 0), (60, 1)]:
        sound = noise(frames * FRAME + rest)
        wanted = theirs(codec, sound)
        assert frames < 60 or min(len(torch.unique(book)) for book in wanted.T) > 12
        assert torch.equal(mimi.encode_all(sound), wanted)


def test_sound_in_pieces_of_any_size_gives_the_same_codes(mimi: Mimi) -> None:
    sound = noise(70 * FRAME + 321)
    whole = mimi.encode_all(sound)
    for sizes in ([700], [FRAME], [1, 0, 5000, 333], [(BLOCK + 3) * FRAME + 7, 40]):
        codes, at = [], 0
        while at < len(sound):
            size = sizes[len(codes) % len(sizes)]
            codes.append(mimi.encode(sound[at : at + size]))
            at += size
            assert sum(map(len, codes)) == min(at, len(sound)) // FRAME
        assert torch.equal(torch.cat([*codes, mimi.encode_rest()]), whole)


def test_frames_that_came_at_once_are_encoded_in_one_call(mimi: Mimi) -> None:
    calls = []
    mimi._model.encoder.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape[-1]))
    mimi.encode(noise(7 * FRAME + 1))
    mimi.encode(noise(2 * BLOCK * FRAME))
    assert calls == [7 * FRAME, BLOCK * FRAME, BLOCK * FRAME]


@pytest.fixture
def moshis(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU decodes as a GPU does: with moshi's modules."""
    monkeypatch.setattr(device.voice.mimi, "suits", lambda model: False)


def frames(number: int) -> Any:
    return torch.randint(0, 64, (number, 6), generator=torch.Generator().manual_seed(3))


def at_once(codec: Any, codes: Any) -> Any:
    """Of transformers' or moshi's codec: (samples,) of (frames, codebooks)."""
    with torch.inference_mode():
        sound = codec.decode(codes.T[None])
    return (sound if isinstance(sound, torch.Tensor) else sound.audio_values)[0, 0]


def assert_streams_like_both_libraries(built: tuple[Any, ...], lengths: list[int]) -> Mimi:
    """Sentences of `lengths` frames, one after the other; each alone, all at once, is what is wanted."""
    codec, config, tensors = built
    mimi, whole = from_csm(config, tensors, "cpu", 6), from_csm(config, tensors, "cpu", 6)._model
    whole._stop_streaming()
    for codes in frames(sum(lengths)).split(lengths):
        mimi.start_decoding()
        found = spoken(mimi, codes)
        assert_same_sound(found, at_once(codec, codes))
        assert_same_sound(found, at_once(whole, codes))
    return mimi


def test_sound_frame_by_frame_is_that_of_both_libraries_decoding_all_at_once(each: tuple[Any, ...]) -> None:
    mimi = assert_streams_like_both_libraries(each, [1, 50, 2, 3, 6, 7, 8, 20])
    assert mimi._decoder is not None


@pytest.mark.usefixtures("moshis")
def test_so_is_the_sound_of_moshis_own_modules_as_on_a_gpu(each: tuple[Any, ...]) -> None:
    mimi = assert_streams_like_both_libraries(each, [1, 50, 2, 20])
    assert mimi._decoder is None


@pytest.mark.parametrize("window", [249, 250])  # 250 is Mimi's: 125 frames, 10 s
def test_sentences_longer_than_the_window_are_those_of_both_libraries(window: int, tmp_path: Path) -> None:
    codec = built(tmp_path, TINY | {"sliding_window": window})
    assert_streams_like_both_libraries(codec, [2, 260, 127])


def test_an_id_that_no_codebook_has_is_refused_and_changes_nothing(mimi: Mimi) -> None:
    codes = frames(3)
    wanted = spoken(mimi, codes)
    mimi.start_decoding()
    assert np.array_equal(mimi.decode(codes[0]), wanted[:FRAME])
    for book in (0, 3, 5):
        for wrong in (-1, 64):
            with pytest.raises(IndexError):
                mimi.decode(torch.arange(6).index_fill(0, torch.tensor(book), wrong))
    assert np.array_equal(spoken(mimi, codes[1:]), wanted[FRAME:])


def test_the_decoder_reads_the_weights_where_moshi_has_them(mimi: Mimi) -> None:
    """A copy would be 60 MB of a real Mimi."""
    own = {tensor.untyped_storage().data_ptr() for tensor in mimi._model.state_dict().values()}
    read = [vars(part) for layer in mimi._decoder._layers for part in (layer, *getattr(layer, "_block", []))]
    weights = [part[name] for part in read for name in ("_weight", "_now", "_before") if name in part]
    assert len(weights) == 2 + 4 * (2 + 2)
    assert all(weight.untyped_storage().data_ptr() in own for weight in weights)


def test_start_forgets_everything(mimi: Mimi) -> None:
    sound, codes = noise(20 * FRAME), torch.randint(0, 64, (20, 6))
    first = mimi.encode(sound), spoken(mimi, codes)
    assert not torch.equal(mimi.encode(sound), first[0])
    assert not np.array_equal(spoken(mimi, codes), first[1])
    mimi.encode(sound[:100])
    mimi.start()
    assert torch.equal(mimi.encode(sound), first[0])
    assert np.array_equal(spoken(mimi, codes), first[1])


def test_the_two_streams_do_not_disturb_each_other(mimi: Mimi) -> None:
    sound, codes = noise(20 * FRAME), torch.randint(0, 64, (20, 6))
    heard, said = mimi.encode(sound), spoken(mimi, codes)
    mimi.start()
    both = [(mimi.encode(piece), mimi.decode(frame)) for piece, frame in zip(np.split(sound, 20), codes, strict=True)]
    assert torch.equal(torch.cat([h for h, _ in both]), heard)
    assert np.array_equal(np.concatenate([s for _, s in both]), said)
    mimi.start()
    mimi.encode(sound[: 9 * FRAME])
    half = spoken(mimi, codes[:9])
    mimi.start_encoding()
    assert np.array_equal(np.concatenate([half, spoken(mimi, codes[9:])]), said)
    mimi.start()
    half_heard = mimi.encode(sound[: 9 * FRAME + 5])
    mimi.start_decoding()
    assert torch.equal(torch.cat([half_heard, mimi.encode(sound[9 * FRAME + 5 :])]), heard)


def test_the_rest_ends_the_stream_and_nothing_has_no_rest(mimi: Mimi) -> None:
    sound = noise(3 * FRAME + 9)
    first = torch.cat([mimi.encode(sound), mimi.encode_rest()])
    assert first.shape == (4, 6)
    assert first.dtype == torch.long
    assert torch.equal(torch.cat([mimi.encode(sound), mimi.encode_rest()]), first)
    assert mimi.encode_rest().shape == (0, 6)
    assert mimi.encode_all(sound[:0]).shape == (0, 6)


def test_a_csm_checkpoint_as_saved_gives_the_codes_of_its_own_codec(tmp_path: Path) -> None:
    from transformers import CsmForConditionalGeneration

    csm = CsmForConditionalGeneration.from_pretrained(tiny_csm.build(tmp_path / "fresh"))
    codec = enliven(csm.codec_model)
    csm.save_pretrained(tmp_path / "csm")
    stored = load_file(tmp_path / "csm/model.safetensors")
    tensors = {name.removeprefix("codec_model."): t for name, t in stored.items() if name.startswith("codec_model.")}
    config = json.loads((tmp_path / "csm/config.json").read_text())["codec_config"]
    mimi = from_csm(config, tensors, "cpu", tiny_csm.CODEBOOKS)
    sound = noise(12 * FRAME + 77)
    assert mimi.codebooks == tiny_csm.CODEBOOKS
    assert torch.equal(mimi.encode_all(sound), theirs(codec, sound))


def kyutai(mimi: Mimi, file: Path) -> Path:
    """`mimi` as Kyutai's file stores it."""
    names = {"in_projs.0.weight": "in_proj_weight", "out_projs.0.weight": "out_proj.weight"}
    tensors = {}
    for name, tensor in mimi._model.state_dict().items():
        for ours, stored in names.items():
            name = name.replace(ours, stored)
        tensors[name] = tensor.contiguous()
    save_file(tensors, file)
    return file


def test_kyutais_own_file_gives_the_same_mimi(mimi: Mimi, tiny: tuple[Any, ...], tmp_path: Path) -> None:
    file = kyutai(mimi, tmp_path / "tokenizer.safetensors")
    other = from_kyutai(file, "cpu", 4, config=tiny[1])
    sound = noise(12 * FRAME + 77)
    assert torch.equal(other.encode_all(sound), mimi.encode_all(sound)[:, :4])
    (tmp_path / "short.safetensors").write_bytes(file.read_bytes()[:5000])
    for name in ("none.safetensors", "short.safetensors"):
        with pytest.raises(VoiceFault, match=rf"{name} can't be read .*: fetch it again\."):
            from_kyutai(tmp_path / name, "cpu", 4, config=tiny[1])
    with pytest.raises(VoiceFault, match=r"tokenizer.safetensors: \S+ has shape"):  # the published shape
        from_kyutai(file, "cpu", 4)


def test_only_the_codebooks_asked_for_are_read(mimi: Mimi, tiny: tuple[Any, ...]) -> None:
    codec, config, tensors = tiny
    read: list[str] = []

    def reader(name: str) -> Callable[[], Any]:
        return lambda: (read.append(name), tensors[name])[1]

    three = from_csm(config, {name: reader(name) for name in tensors}, "cpu", 3)
    left = {name for name in tensors if "acoustic" in name and any(f"layers.{n}." in name for n in (2, 3, 4))}
    assert len(left) == 9
    assert sorted(read) == sorted(tensors.keys() - left)
    assert mimi.memory - three.memory == sum(tensors[name].nbytes for name in left)
    sound = noise(12 * FRAME)
    assert torch.equal(three.encode_all(sound), theirs(codec, sound)[:, :3])


def test_memory_counts_every_byte_once_and_none_of_the_file(mimi: Mimi, tiny: tuple[Any, ...]) -> None:
    assert mimi.memory == sum(t.nbytes for t in tiny[2].values())
    kept = {t.data_ptr(): t.nbytes for m in mimi._model.modules() for t in (*m.parameters(False), *m.buffers(False))}
    assert sum(kept.values()) == mimi.memory
    assert kept.keys().isdisjoint(t.data_ptr() for t in tiny[2].values())


def test_a_smaller_decoder_leaves_the_codes_alone(mimi: Mimi, tiny: tuple[Any, ...]) -> None:
    small = from_csm(tiny[1], tiny[2], "cpu", 6, dtype=torch.bfloat16)
    sound, codes = noise(12 * FRAME), torch.randint(0, 64, (12, 6))
    assert mimi._decoder is not None
    assert small._decoder is None
    assert torch.equal(small.encode_all(sound), mimi.encode_all(sound))
    assert small.memory < mimi.memory
    found, wanted = spoken(small, codes), spoken(mimi, codes)
    assert found.dtype == np.float32
    assert not np.array_equal(found, wanted)
    assert np.corrcoef(found, wanted)[0, 1] > 0.99


@pytest.mark.parametrize(
    "name",
    [
        "decoder.layers.0.conv.weight",
        "encoder_transformer.layers.1.self_attn.k_proj.weight",
        "quantizer.acoustic_residual_vector_quantizer.layers.4.codebook.embed_sum",
        "upsample.conv.weight",
    ],
)
def test_a_tensor_missing_misshapen_or_too_many_is_named(tiny: tuple[Any, ...], name: str) -> None:
    _, config, tensors = tiny
    less = {n: t for n, t in tensors.items() if n != name}
    with pytest.raises(VoiceFault, match=rf"^codec_model\.{name} is missing from the checkpoint: fetch it again\.$"):
        from_csm(config, less, "cpu", 6)
    with pytest.raises(VoiceFault, match=rf"^codec_model\.{name} has shape .*, not .*: fetch the checkpoint again\.$"):
        from_csm(config, tensors | {name: tensors[name][1:]}, "cpu", 6)
    with pytest.raises(VoiceFault, match=rf"^codec_model\.{name}2 is in the checkpoint, but this Mimi has no place for it"):
        from_csm(config, tensors | {f"{name}2": tensors[name]}, "cpu", 6)


@pytest.mark.parametrize(
    "other",
    [
        {"pad_mode": "reflect"},
        {"upsampling_ratios": [8, 6, 5, 2]},
        {"upsample_groups": 1},
        {"norm_eps": 1e-6},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
        {"num_quantizers": 5},
        {"num_semantic_quantizers": 6, "num_quantizers": 7},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_codec_that_moshi_cannot_be_is_refused_by_name(tiny: tuple[Any, ...], other: dict[str, Any]) -> None:
    named = "codebooks" if "num_quantizers" in other else "rope_type" if "rope_parameters" in other else next(iter(other))
    with pytest.raises(VoiceFault, match=named):
        from_csm(tiny[1] | other, tiny[2], "cpu", 6)


def test_whole_numbers_and_short_frames_are_refused(mimi: Mimi) -> None:
    with pytest.raises(TypeError, match="float32"):
        mimi.encode(np.zeros(FRAME, np.int16))
    with pytest.raises(ValueError, match="6 codes"):
        mimi.decode(torch.zeros(5, dtype=torch.long))


@pytest.mark.parametrize("suits", [True, False], ids=["own", "moshis"])
def test_nothing_is_compiled_and_no_gradient_kept(tiny: tuple[Any, ...], suits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.voice.mimi, "suits", lambda model: suits)
    mimi = from_csm(tiny[1], tiny[2], "cpu", 6)
    assert (mimi._decoder is not None) == suits
    seen = []

    def look(*_: Any) -> None:
        seen.append((moshi.utils.compile._compile_disabled, torch.is_inference_mode_enabled()))

    mimi._model.encoder.register_forward_pre_hook(look)
    if mimi._decoder is None:
        mimi._model.upsample.register_forward_pre_hook(look)
    else:
        latent = mimi._decoder._latent
        monkeypatch.setattr(mimi._decoder, "_latent", lambda ids: (look(), latent(ids))[1])
    mimi.encode_all(noise(FRAME + 1))
    mimi.decode(torch.zeros(6, dtype=torch.long))
    assert seen == [(True, True)] * 3
    assert not any(p.requires_grad for p in mimi._model.parameters())


@pytest.mark.slow
def test_the_full_mimi_streams_like_transformers(tmp_path: Path) -> None:
    codec, config, tensors = built(tmp_path, {"num_quantizers": 32})
    begin = time.perf_counter()
    mimi = from_csm(config, tensors, "cpu", 32)
    load = time.perf_counter() - begin
    sound = noise(30 * FRAME + 777)
    wanted = theirs(codec, sound)
    assert len(torch.unique(wanted)) > 200
    assert torch.equal(mimi.encode_all(sound), wanted)
    begin = time.perf_counter()
    codes = torch.cat([mimi.encode(piece) for piece in np.split(sound[: 30 * FRAME], 30)])
    encode = (time.perf_counter() - begin) / 30
    assert torch.equal(codes, wanted[:30])
    spoken(mimi, codes[:3])
    mimi.start()
    said = torch.cat([codes, torch.randint(0, 2048, (100, 32), generator=torch.Generator().manual_seed(3))])  # 10.4 s
    begin = time.perf_counter()
    found = spoken(mimi, said)
    decode = (time.perf_counter() - begin) / len(said)
    assert_same_sound(found, at_once(codec, said))
    print(
        f"\nMimi, {torch.get_num_threads()} threads: {mimi.memory / 1e6:.0f} MB loaded in {load:.2f} s, "
        f"{1000 * encode:.1f} ms a frame encoded, {1000 * decode:.1f} ms decoded"
    )
