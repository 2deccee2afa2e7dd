"""What other people's clients get from the server, by a Python that has them: prints it as JSON.

    python clients.py CLIENT ADDRESS

Imports nothing of neurosteer, which that Python does not have. Every text is asked for with SEED and at
most LENGTH tokens, so that the same request over plain HTTP must give the same.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SEED, LENGTH = 4, 16  # OpenAI writes at least 16 in a response, and litellm holds to that
MODEL = "tiny+polite:3"
HELLO = [{"role": "user", "content": "hello"}]
Told = dict[str, Any]


def langchain(address: str) -> Told:
    from langchain_core.messages import AIMessageChunk, HumanMessage
    from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

    at: Any = {
        "base_url": f"{address}/v1",
        "api_key": "unused",
        "model": MODEL,
        "seed": SEED,
        "max_retries": 0,
    }
    chat = ChatOpenAI(**at, max_tokens=LENGTH)
    answer = chat.invoke("hello")
    chunks = [chunk for chunk in chat.stream("hello") if isinstance(chunk, AIMessageChunk)]
    again = chat.invoke([HumanMessage("hello"), answer, HumanMessage("and then?")])
    newer = ChatOpenAI(**{**at, "seed": None}, max_tokens=LENGTH, use_responses_api=True, temperature=0)
    many = OpenAI(**at, max_tokens=LENGTH, temperature=1).generate(["hello"] * 20)
    embeddings = OpenAIEmbeddings(
        base_url=f"{address}/v1", api_key="unused", model="tiny", check_embedding_ctx_length=False
    )
    return {
        "chat": answer.content,
        "streamed": "".join(str(chunk.content) for chunk in chunks),
        "history": again.content,
        "greedy": newer.invoke("hello").text,
        "greedy streamed": "".join(chunk.text for chunk in newer.stream("hello")),
        "completions": [texts[0].text for texts in many.generations],
        "embedding": embeddings.embed_query("hello"),
    }


def litellm(address: str) -> Told:
    import litellm

    asked: Any = {"seed": SEED, "max_tokens": LENGTH, "api_key": "unused", "num_retries": 0}
    found: Told = {}
    for provider in ("openai", "hosted_vllm", "lm_studio"):
        at = {"model": f"{provider}/{MODEL}", "api_base": f"{address}/v1"}
        answer = litellm.completion(messages=HELLO, **at, **asked).choices[0].message
        chunks = litellm.completion(messages=HELLO, stream=True, **at, **asked)
        history = [*HELLO, answer.model_dump(), {"role": "user", "content": "and then?"}]
        found[f"{provider} chat"] = answer.content
        found[f"{provider} streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        found[f"{provider} history"] = (
            litellm.completion(messages=history, **at, **asked).choices[0].message.content
        )
    at = {"model": f"text-completion-openai/{MODEL}", "api_base": f"{address}/v1"}
    found["completion"] = litellm.text_completion(prompt="hello", **at, **asked).choices[0].text
    options = {**asked, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    for provider in ("ollama_chat", "ollama"):
        at = {"model": f"{provider}/{MODEL}", "api_base": address}
        whole = litellm.completion(messages=HELLO, **at, **options).choices[0].message.content
        chunks = litellm.completion(messages=HELLO, stream=True, **at, **options)
        assert whole == "".join(chunk.choices[0].delta.content or "" for chunk in chunks) != ""
        if provider == "ollama_chat":  # the other has a template of its own
            found["ollama chat"] = whole
    at = {"api_base": f"{address}/v1", "api_key": "unused"}
    response = litellm.responses(
        model=f"openai/{MODEL}", input="hello", max_output_tokens=LENGTH, temperature=0, **at
    )
    found["greedy"] = response.output[0].content[0].text
    found["embedding"] = litellm.embedding(model="openai/tiny", input=["hello"], **at).data[0]["embedding"]
    return found


def llm(address: str) -> Told:
    models = [
        {
            "model_id": name,
            "model_name": MODEL,
            "api_base": f"{address}/v1",
            **({"completion": True} if name == "c" else {}),
        }
        for name in ("tiny", "c")
    ]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML
        environment = {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": "unused"}

        def said(*arguments: str) -> str:
            options = ["-o", "seed", str(SEED), "-o", "max_tokens", str(LENGTH)]
            command = [sys.executable, "-m", "llm", *arguments, *options]
            done = subprocess.run(
                command, env=environment, capture_output=True, check=True, stdin=subprocess.DEVNULL
            )
            return done.stdout.decode().removesuffix("\n")

        return {
            "chat": said("-m", "tiny", "hello", "--no-stream"),
            "history": said("-c", "and then?"),
            "streamed": said("-m", "tiny", "hello"),
            "system": said("-m", "tiny", "-s", "be kind", "hello"),
            "completion": said("-m", "c", "hello", "--no-log"),
        }


if __name__ == "__main__":
    client = {"langchain": langchain, "litellm": litellm, "llm": llm}[sys.argv[1]]
    sys.stdout.write(json.dumps(client(sys.argv[2])))
