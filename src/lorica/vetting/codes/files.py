"""L001-L099: is it safe to read, and is it what its name says?

L001-L019 the folder · L020-L046 the header · L050-L069 the config · L070-L079 other documents · L080-L099 archives
"""

from __future__ import annotations

from lorica.vetting.codes.base import Code

_AGAIN = "copy, download or save the adapter again"
_PEFT = "compare it with the config that PEFT saved"
_DAMAGED = ("unreadable",)
_FOREIGN = ("unreadable", "unsupported")

FILES: dict[str, Code] = {
    "L001": Code("reject", "neither a config nor weights are there", "is this an adapter saved by PEFT?", _DAMAGED),
    "L002": Code(
        "reject",
        "adapter_config.json is missing",
        "copy it from where the adapter was trained: rank, scaling and targets stand in it",
        ("unreadable", "incomplete"),
    ),
    "L003": Code("reject", "the weights are missing", "copy the whole folder again", ("unreadable", "incomplete")),
    "L004": Code("reject", "a file's name differs in capitals, so that loaders miss it", "rename it", ("unreadable",)),
    "L005": Code(
        "reject", "the weights have another name than loaders look for", "rename them", ("unreadable", "unsupported")
    ),
    "L006": Code(
        "reject",
        "the weights are in parts, which PEFT does not write or load",
        "save the adapter in one file with PEFT",
        ("unreadable", "unsupported"),
    ),
    "L007": Code("reject", "a folder, pipe, device or socket stands where a file belongs", _AGAIN, _DAMAGED),
    "L008": Code("reject", "a file cannot be read", "look at its permissions and its disk", _DAMAGED),
    "L009": Code(
        "reject",
        "a link leads out of the adapter's folder or to nothing",
        "put the file itself into the folder (`cp -L`)",
        _DAMAGED,
    ),
    "L010": Code("reject", "a Git LFS pointer stands in the place of a file", "run `git lfs pull` there", _DAMAGED),
    "L011": Code("reject", "a file of another format under a false name", _AGAIN, _FOREIGN),
    "L012": Code(
        "reject",
        "the weights are a pickle, which is never loaded",
        "`lorica convert DIR OUT` reads its tensors and runs nothing of it; or save it again where it was made, with "
        "save_pretrained(..., safe_serialization=True)",
        _FOREIGN,
    ),
    "L013": Code(
        "reject",
        "a pickle that runs code when it is loaded",
        "do not load it; get the adapter as safetensors from somebody you trust",
        _FOREIGN,
    ),
    "L014": Code("note", "files beside the weights that are never read"),
    "L015": Code("note", "the weights are there twice; only the safetensors file is read"),
    "L016": Code("note", "more files than are listed"),
    "L017": Code(
        "reject",
        "several weights, and none under the name that loaders look for",
        "rename the right one to adapter_model.safetensors, or check one of them: lorica check FILE",
        ("unreadable", "unsupported"),
    ),
    "L018": Code("warn", "a training, or somebody else, is writing here", "wait until it is done, and check it then"),
    # the header of the safetensors file
    "L020": Code("reject", "the weights are an empty file", _AGAIN, _DAMAGED),
    "L021": Code("reject", "the weights are too short to be a safetensors file", _AGAIN, _DAMAGED),
    "L022": Code("reject", "the header's length is beyond the file and beyond any header", _AGAIN, _DAMAGED),
    "L023": Code("reject", "the weights are cut short", _AGAIN, _DAMAGED),
    "L024": Code("reject", "the header is not UTF-8", _AGAIN, _DAMAGED),
    "L025": Code("reject", "the header is not JSON", _AGAIN, _DAMAGED),
    "L026": Code("reject", "the header is nested too deeply", _AGAIN, _DAMAGED),
    "L027": Code("reject", "the header gives a key twice", _AGAIN, _DAMAGED),
    "L028": Code("reject", "the header lists too many tensors", _AGAIN, _DAMAGED),
    "L029": Code("reject", "the header's metadata is not an object of texts", _AGAIN, _DAMAGED),
    "L030": Code("reject", "the header's metadata is larger than 1 MiB", "save the adapter with PEFT", _DAMAGED),
    "L031": Code(
        "reject", "a tensor's name is empty, too long, climbs ('..') or holds control characters", _AGAIN, _DAMAGED
    ),
    "L032": Code("reject", "a tensor is not described as the format demands", _AGAIN, _DAMAGED),
    "L033": Code("reject", "a tensor of an unknown element type", _AGAIN, _DAMAGED),
    "L034": Code("reject", "a tensor's shape is beyond any size", _AGAIN, _DAMAGED),
    "L035": Code("reject", "a tensor's bytes are not what its shape needs", _AGAIN, _DAMAGED),
    "L036": Code("reject", "tensors overlap", _AGAIN, _DAMAGED),
    "L037": Code("reject", "bytes that belong to no tensor lie between tensors", _AGAIN, _DAMAGED),
    "L038": Code("reject", "bytes follow after the last tensor", _AGAIN, _DAMAGED),
    "L039": Code("reject", "the weights hold no tensor", _AGAIN, ("unreadable", "incomplete")),
    "L040": Code("reject", "the header is larger than 16 MiB", "save the adapter with PEFT", _DAMAGED),
    # adapter_config.json
    "L050": Code("reject", "the config is too large", _PEFT, _DAMAGED),
    "L051": Code("reject", "the config is not UTF-8", _PEFT, _DAMAGED),
    "L052": Code("reject", "the config is not JSON", _PEFT, _DAMAGED),
    "L053": Code("reject", "the config is nested too deeply", _PEFT, _DAMAGED),
    "L054": Code("reject", "the config is not an object", _PEFT, _DAMAGED),
    "L055": Code("reject", "the config gives a key twice", "keep one of the values", ("unreadable", "altered")),
    "L056": Code("reject", "the config holds NaN or Infinity", _PEFT, ("unreadable", "altered")),
    "L057": Code("reject", "the config holds a broken text", _PEFT, _DAMAGED),
    "L058": Code("reject", "the config does not say which kind of adapter it is", _PEFT, _FOREIGN),
    "L059": Code("reject", "a value of the config has the wrong type", _PEFT, ("unreadable", "altered")),
    "L060": Code("reject", "a number of the config is out of range", _PEFT, ("altered", "unreadable")),
    "L061": Code("note", "keys of the config that PEFT does not know", "correct or remove them", ("altered",)),
    "L062": Code("note", "auto_mapping names a class for AutoPeftModel to import"),
    "L063": Code("warn", "the config asks loaders to import code", "remove the key: it needs trust_remote_code"),
    "L064": Code("note", "regular expressions in the config are never executed"),
    "L065": Code("warn", "control characters in a text of the config", "remove them", ("altered",)),
    # other documents
    "L070": Code("warn", "a document beside the weights is broken", "save or copy it again"),
    "L071": Code("note", "a document beside the weights is too large to be read"),
    "L072": Code("note", "the card is read in part"),
    # archives
    "L080": Code("reject", "the archive is damaged or of a kind that is not read", _AGAIN, _DAMAGED),
    "L081": Code(
        "reject", "the archive has too many members", "unpack it where you trust it, name the folder", _DAMAGED
    ),
    "L082": Code("reject", "the archive unpacks to far more than it is (a bomb?)", "do not unpack it", _DAMAGED),
    "L083": Code("reject", "names in the archive lead out of it", "do not unpack it; get another copy", _DAMAGED),
    "L084": Code("reject", "links in the archive are not followed", "pack the files themselves (`tar -h`)", _DAMAGED),
    "L085": Code("reject", "devices, pipes or sparse files in the archive", "do not unpack it", _DAMAGED),
    "L086": Code("reject", "members of the archive are encrypted", "unpack it yourself and name the folder", _DAMAGED),
    "L087": Code("note", "archives within the archive are not opened"),
    "L088": Code("reject", "the archive holds several adapters", "unpack it and name the folder"),
    "L089": Code("reject", "the archive holds a file twice", _AGAIN, ("unreadable", "altered")),
    "L099": Code(
        "warn",
        "the check itself failed, so nothing is known of the adapter",
        "this is a mistake in Lorica: please report it with the adapter's config and header",
    ),
}
