"""Run under transformers 4: read checkpoint folders and write down what it makes of them.

    PYTHONPATH=FOLDER_WITH_TRANSFORMERS_4 python version4.py TASK.json

The task names folders, token ids and texts; the answer is in version4.safetensors and .json of each folder.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

MESSAGES = [{"role": "user", "content": "hello"}]


def main() -> None:
    assert transformers.__version__.startswith("4."), transformers.__version__
    task = json.loads(Path(sys.argv[1]).read_text())
    for folder in map(Path, task["folders"]):
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, torch_dtype=torch.float32, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        with torch.inference_mode():
            logits = model.eval()(input_ids=torch.tensor(task["ids"])).logits
        save_file({"logits": logits.contiguous()}, folder / "version4.safetensors")
        answer = {
            "inputs": sorted(tokenizer("x")),
            "left": [sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")],
            "ids": [tokenizer(text)["input_ids"] for text in task["texts"]],
            "decoded": [tokenizer.decode(ids, skip_special_tokens=True) for ids in task["ids"]],
            "special": sorted(tokenizer.all_special_tokens),
            "chat": tokenizer.apply_chat_template(MESSAGES, tokenize=False)
            if tokenizer.chat_template
            else None,
            "written": None,
        }
        if task["prompt"]:
            inputs = tokenizer(task["prompt"], return_tensors="pt")
            written = model.generate(**inputs, max_new_tokens=task["max_new_tokens"], do_sample=False)
            answer["written"] = tokenizer.decode(written[0, inputs["input_ids"].shape[1] :])
        (folder / "version4.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
