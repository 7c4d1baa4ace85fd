"""How keys of weight files are spelled, and whether a network holds what was in one."""

import torch


def same(supernet, state) -> bool:
    found = supernet.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)


def old_spelling(key):
    return key.replace(".conv.", ".mobile_inverted_conv.", 1) if key.startswith("blocks") else key


def static_spelling(key):
    for name in ("conv", "bn", "linear"):
        key = key.replace(f".{name}.{name}.", f".{name}.")
    return key


SPELLINGS = {
    "official": lambda key: key,
    "old": old_spelling,
    "static": static_spelling,
    "static old": lambda key: static_spelling(old_spelling(key)),
    "data parallel": lambda key: f"module.{key}",
    "doubled linear": lambda key: key.replace("classifier.linear.", "classifier.linear.linear."),
}
