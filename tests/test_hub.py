"""A run with the encoders of diffusers and transformers: trained, cached, sampled, refused"""
import json
import os
import shutil
import socket
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import RED, fine, refused
from stiv_nb.cli.main import stiv
from stiv_nb.codec.hub import DiffusersVAE, HFTextEncoder
from stiv_nb.core.machine import hub_answers
from stiv_nb.data.folder import make_samples
from stiv_nb.data.shapes import VOCABULARY
from stiv_nb.model.dit import ModelConfig
from stiv_nb.stiv.pipeline import load
from stiv_nb.train.planner import ENCODERS
from stiv_nb.train.recipe import change, to_yaml
from stiv_nb.train.recipes import RECIPES


def tiny_clip(folder):
    "Saves CLIP's text encoder, tiny and random, with a tokenizer of words"
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast
    special = ["<pad>", "<start>", "<end>", "<unk>"]
    words = {w: i for i, w in enumerate([*special, *VOCABULARY])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<start>", eos_token="<end>",
        unk_token="<unk>").save_pretrained(folder)
    config = CLIPTextConfig(
        vocab_size=len(words), pad_token_id=0, bos_token_id=1, eos_token_id=2, hidden_size=16,
        intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=24)
    CLIPTextModel(config).save_pretrained(folder)


def tiny_vae(folder):
    "Saves diffusers' VAE, tiny and random; it makes pictures 8 times smaller"
    from diffusers import AutoencoderKL
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=["DownEncoderBlock2D"]*4,
        up_block_types=["UpDecoderBlock2D"]*4, latent_channels=4, norm_num_groups=4,
        scaling_factor=.5).save_pretrained(folder)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    "A folder with a VAE, a text encoder, and a recipe that names both"
    room = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    tiny_vae(room/"vae")
    tiny_clip(room/"clip")
    model = ModelConfig(width=32, depth=1, heads=2, channels=4, text_width=16)
    recipe = change(
        replace(RECIPES["demo-stiv"], model=model), codec__vae=str(room/"vae"),
        codec__text=str(room/"clip"), data__n_clips=16, data__n_frames=4, run__start=None,
        run__n_steps=4, run__batch=4, run__log_every=2, run__save_every=2, optim__warmup=1,
        optim__cooldown=0, parallel__compile=False)
    (room/"r.yaml").write_text(to_yaml(recipe))
    return room


@pytest.fixture(scope="module")
def run(room):
    "A finished run of that recipe"
    fine("train", room/"r.yaml", "--folder", room/"run")
    return room/"run"


def test_trained_stored_by_name_and_sampled(room, run):
    config = json.loads((run/"pipeline"/"config.json").read_text())
    stored = json.dumps(config)
    assert str(room/"vae") in stored
    assert str(room/"clip") in stored
    from safetensors import safe_open
    with safe_open(run/"pipeline"/"model.safetensors", "pt") as f:
        assert all(k.startswith("model.") for k in f.keys())   # the encoders' names, not weights
    text = fine("sample", RED, "--weights", run, "--steps", 2, "-o", room/"a.gif")
    assert "4 frames of 32x32" in text
    first, again = (load(run/"pipeline")(RED, steps=2, progress=False).frames for _ in range(2))
    assert torch.equal(first, again)


def losses(folder):
    lines = (folder/"metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_a_cache_belongs_to_its_encoders(room, run):
    fine("cache", room/"r.yaml", "--out", room/"latents")
    fine("train", room/"r.yaml", "--data.cache", room/"latents", "--folder", room/"cached")
    assert losses(run) == pytest.approx(losses(room/"cached"), rel=2e-2)   # 16-bit latents
    code, text = stiv(
        "train", "demo-stiv", "--data.cache", room/"latents", "--folder", room/"wrong")
    assert code == 2, text
    assert "have 4 channels and text" in text   # the first thing that does not fit


def test_labels_beside_a_vae_of_the_hub(room):
    "The text encoder's weights are stored, of the VAE the name; a cache or the toy has no labels"
    make_samples(room/"clips", n=6)
    labels = ["--codec.text", "null", "--codec.encoder", "label"]
    fine("train", room/"r.yaml", *labels, "--data.source", room/"clips",
         "--folder", room/"classes")
    pipe = load(room/"classes")
    assert isinstance(pipe.vae, DiffusersVAE)
    words = pipe.text.config.words
    assert pipe.text.encode([words[0]]).pooled.norm() > 0
    videos = [pipe(label, steps=2, progress=False) for label in words[:2]]
    assert not torch.equal(*(v.frames for v in videos))
    says = "codec.encoder='label' stands in place of codec.text"
    refused("train", room/"r.yaml", *labels, "--folder", room/"no", says=says)
    refused("train", room/"r.yaml", *labels[2:], "--data.source", room/"clips",
            "--folder", room/"no", says=says)
    refused("train", room/"r.yaml", *labels, "--data.cache", room/"latents",
            "--folder", room/"no", says=says)


def test_a_pipeline_names_the_encoder_that_is_missing(room, run):
    shutil.copytree(run, room/"moved")
    config = room/"moved"/"pipeline"/"config.json"
    config.write_text(config.read_text().replace(str(room/"vae"), "nobody/nothing"))
    says = "'nobody/nothing' can't be loaded"
    refused("sample", RED, "--weights", room/"moved", "-o", room/"b.gif", says=says)
    assert not (room/"b.gif").exists()
    text = ["--codec.text", "nobody/nothing"]
    says = "text encoder 'nobody/nothing'"
    refused("train", room/"r.yaml", *text, "--folder", room/"no", says=says)


# Encoders of strangers

class Armed:
    "A pickle that leaves a mark where it is read"
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return Path.touch, (self.mark,)


def arm(folder, weights, mark):
    "Swaps safetensors for a pickle, beside code that leaves a mark when it runs"
    for path in folder.glob("*.safetensors"): path.unlink()
    torch.save(Armed(mark), folder/weights)
    (folder/"armed.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    config = json.loads((folder/"config.json").read_text())
    classes = {name: "armed.Armed" for name in ("AutoConfig", "AutoModel", "AutoTokenizer")}
    config |= dict(auto_map=classes, model_type="armed")
    (folder/"config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name, weights, encoder", [
    ("vae", "diffusion_pytorch_model.bin", DiffusersVAE),
    ("clip", "pytorch_model.bin", HFTextEncoder),
])
def test_nothing_of_a_stranger_is_run(room, tmp_path, name, weights, encoder):
    folder = tmp_path/name
    shutil.copytree(room/name, folder)
    arm(folder, weights, tmp_path/"mark")
    with pytest.raises(FileNotFoundError, match="safetensors"): encoder(str(folder))
    assert not (tmp_path/"mark").exists()
    torch.load(folder/weights, weights_only=False)
    assert (tmp_path/"mark").exists()              # it was armed


@pytest.mark.parametrize("name, encoder", [("vae", DiffusersVAE), ("clip", HFTextEncoder)])
def test_encoders_without_numbers_and_without_an_end(room, tmp_path, name, encoder):
    folder = tmp_path/name
    shutil.copytree(room/name, folder)
    path, = folder.glob("*.safetensors")
    weights = {k: w.clone() for k, w in load_file(path).items()}
    weights[min(weights)].fill_(float("nan"))
    save_file(weights, path, metadata=dict(format="pt"))
    says = f"{name}' has NaN or infinite weights"
    with pytest.raises(ValueError, match=says): encoder(str(folder))
    path.unlink()
    os.mkfifo(path)                                # would be read for ever
    with pytest.raises(ValueError, match="not a regular file"): encoder(str(folder))


def test_no_network_is_noticed_soon(monkeypatch):
    "The Hub's own client tried again for 24 to 30 seconds"
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    start = time.perf_counter()
    with socket.create_server(("127.0.0.1", 0)) as silent:       # takes calls, says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert not hub_answers(.5)
    monkeypatch.setattr(constants, "ENDPOINT", "http://nobody.invalid")
    for load_it in (DiffusersVAE, HFTextEncoder, load):
        with pytest.raises(FileNotFoundError, match="the Hub does not answer"):
            load_it("nobody/nothing")
    assert time.perf_counter() - start < 15        # of a busy machine


def test_a_hub_that_answers_is_asked(monkeypatch):
    "Any answer will do; what is there and what is not is the Hub's to say"
    from huggingface_hub import constants
    class Refuse(BaseHTTPRequestHandler):
        def do_HEAD(self): self.send_error(403)
        def log_message(self, *args): pass
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with HTTPServer(("127.0.0.1", 0), Refuse) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub_answers()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not hub_answers()
        server.shutdown()


def test_planned_encoders_have_that_many_weights():
    "The planner's table, against models of the shapes that the Hub's cards state"
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel
    def vae(channels):
        down, up = ("DownEncoderBlock2D",)*4, ("UpDecoderBlock2D",)*4
        return AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2,
                             latent_channels=channels, down_block_types=down, up_block_types=up)
    def text(width, layers, heads):
        return CLIPTextModel(CLIPTextConfig(
            hidden_size=width, intermediate_size=4*width, num_hidden_layers=layers,
            num_attention_heads=heads))
    with torch.device("meta"):
        built = [vae(4), vae(16), text(768, 12, 12), text(1280, 32, 20)]
    assert [sum(p.numel() for p in m.parameters()) for m in built] == [*ENCODERS.values()]
