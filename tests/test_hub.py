"""A run with the encoders of diffusers and transformers: trained, resumed, cached, stored by name, sampled, refused."""
import json
import shutil

import pytest
import torch

from stiv_nb.cli.main import stiv
from stiv_nb.data.shapes import VOCABULARY
from stiv_nb.model.dit import ModelConfig
from stiv_nb.stiv.pipeline import load
from stiv_nb.train.recipe import change, to_yaml
from stiv_nb.train.recipes import RECIPES

RED = "a red circle moving left"


def tiny_clip(folder):
    "CLIP's text encoder, tiny and random, with a tokenizer of words"
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast
    words = {w: i for i, w in enumerate(["<pad>", "<start>", "<end>", "<unk>", *VOCABULARY])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<start>", eos_token="<end>", unk_token="<unk>").save_pretrained(folder)
    size = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=24)
    CLIPTextModel(CLIPTextConfig(vocab_size=len(words), bos_token_id=1, eos_token_id=2, pad_token_id=0, **size)).save_pretrained(folder)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    "A folder with a VAE that makes pictures 8 times smaller, a text encoder, and a recipe that names both"
    room = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    from diffusers import AutoencoderKL
    AutoencoderKL(block_out_channels=(8, 8, 8, 8), down_block_types=["DownEncoderBlock2D"]*4, up_block_types=["UpDecoderBlock2D"]*4, latent_channels=4, norm_num_groups=4, scaling_factor=.5).save_pretrained(room/"vae")
    tiny_clip(room/"clip")
    small = dict(model=ModelConfig(width=32, depth=1, heads=2, channels=4, text_width=16), run__n_steps=4, run__batch=4, run__log_every=2, run__save_every=2, data__n_clips=16, data__n_frames=4, optim__warmup=1, optim__cooldown=0, parallel__compile=False)
    recipe = change(RECIPES["demo-stiv"], codec__vae=str(room/"vae"), codec__text=str(room/"clip"), run__start=None, **{k: v for k, v in small.items() if k != "model"})
    (room/"r.yaml").write_text(to_yaml(recipe.__class__(**{**vars(recipe), "model": small["model"]})))
    return room


@pytest.fixture(scope="module")
def run(room):
    "A finished run of that recipe"
    code, text = stiv("train", room/"r.yaml", "--folder", room/"run")
    assert code == 0, text
    return room/"run"


def test_trained_stored_by_name_and_sampled(room, run):
    config = json.loads((run/"pipeline"/"config.json").read_text())
    assert str(room/"vae") in json.dumps(config) and str(room/"clip") in json.dumps(config)
    from safetensors import safe_open
    with safe_open(run/"pipeline"/"model.safetensors", "pt") as f: assert not [k for k in f.keys() if not k.startswith("model.")]   # names, not weights
    code, text = stiv("sample", RED, "--weights", run, "--steps", 2, "-o", room/"a.gif")
    assert code == 0 and "4 frames of 32x32" in text
    a, b = (load(run/"pipeline")(RED, steps=2, progress=False).frames for _ in range(2))
    assert torch.equal(a, b)


def test_a_cache_of_their_latents_is_theirs_alone(room, run):
    code, text = stiv("cache", room/"r.yaml", "--out", room/"latents")
    assert code == 0, text
    code, text = stiv("train", room/"r.yaml", "--data.cache", room/"latents", "--folder", room/"cached")
    assert code == 0, text
    losses = [[json.loads(line)["loss"] for line in open(folder/"metrics.jsonl")] for folder in (run, room/"cached")]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)   # latents are kept in 16 bits
    code, text = stiv("train", "demo-stiv", "--data.cache", room/"latents", "--folder", room/"wrong")
    assert code == 2 and "made by other encoders" in text


def test_without_its_encoders_a_checkpoint_says_so(room, run):
    shutil.copytree(run, room/"moved")
    config = (room/"moved"/"pipeline"/"config.json")
    config.write_text(config.read_text().replace(str(room/"vae"), "nobody/nothing"))
    code, text = stiv("sample", RED, "--weights", room/"moved", "-o", room/"b.gif")
    assert code == 2 and len(text.splitlines()) == 1 and "'nobody/nothing' can't be loaded" in text and not (room/"b.gif").exists()
    code, text = stiv("train", room/"r.yaml", "--codec.text", "nobody/nothing", "--folder", room/"no")
    assert code == 2 and len(text.splitlines()) == 1 and "text encoder 'nobody/nothing'" in text
