"""The sections of an experiment's file that say what runs a model: this process, vLLM's processes, or a server."""

from typing import Literal, Self

from pydantic import Field, model_validator

from lance_assets.settings.values import FromEnvironment, ModelName, PromptProfile, Settings


class VllmSettings(Settings):
    """vLLM's offline engine, in processes of its own."""

    python: FromEnvironment = Field(
        "${LANCE_VLLM_PYTHON:-python}",
        validate_default=True,
        description="The interpreter of the environment that has vLLM; 'python' is the one that runs this.",
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share one copy of the model.")
    data_parallel_size: int = Field(1, ge=1, description="Copies of the model, each in its own process and GPUs.")
    gpu_memory_utilization: float = Field(0.9, gt=0, lt=1, description="Share of a GPU's memory the engine may take.")
    max_model_len: int | None = Field(None, ge=16, description="Tokens of prompt and completion; none: the model's.")
    max_num_seqs: int = Field(512, ge=1, description="Rows decoded together by one copy.")
    max_num_batched_tokens: int | None = Field(None, ge=32, description="Tokens of one step; none: vLLM's own.")
    prefix_caching: bool = Field(True, description="Read a prefix that prompts share once.")
    block_size: int | None = Field(
        None, ge=1, description="Tokens of a cache block; none: 32 on CPUs, else vLLM's own."
    )
    kv_cache_gib: int = Field(1, ge=1, description="Cache of one copy on a CPU; on GPUs the utilization decides.")
    enforce_eager: bool = Field(False, description="No compilation, no CUDA graphs; always so on CPUs.")
    num_threads: int | None = Field(None, ge=1, description="CPU threads of one copy; none: the cores over the copies.")
    merge_adapters_above: int = Field(
        0,
        ge=0,
        description="A round's LoRA adapter serves stages of up to so many rows; larger ones its merged weights.",
    )
    max_restarts: int = Field(6, ge=0, description="Times in a row that processes may die before any row is finished.")
    stall_seconds: float = Field(900.0, gt=0, description="A process that says nothing for so long is started again.")


class OpenAISettings(Settings):
    """Any server with the OpenAI API: vLLM, SGLang, TGI, or a hosted one."""

    base_url: FromEnvironment = Field(description="Where the server is, up to and with /v1; without user or key in it.")
    model: FromEnvironment | None = Field(None, description="The name it is served under; none: the only one served.")
    api_key_env: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="The variable that holds the key; none: no key."
    )
    max_concurrency: int = Field(64, ge=1, description="Requests under way at once.")
    requests_per_minute: int | None = Field(None, ge=1, description="The provider's limit; none: no limit.")
    tokens_per_minute: int | None = Field(None, ge=1, description="The provider's limit, prompt and completion.")
    timeout_seconds: float = Field(300.0, gt=0, description="Longest wait for each next byte of an answer.")
    max_retries: int = Field(9, ge=0, description="Times a request is sent again after 408, 409, 429, 5xx or garbage.")
    load_adapters: bool = Field(
        False, description="Load each round's LoRA adapter into the server, which holds the base model (vLLM's API)."
    )


class PriceSettings(Settings):
    """What an engine costs, in one currency of your choice."""

    prompt_per_million: float = Field(0.0, ge=0, description="For a million prompt tokens that were not cached.")
    cached_per_million: float = Field(0.0, ge=0, description="For a million cached prompt tokens.")
    completion_per_million: float = Field(0.0, ge=0, description="For a million completion tokens.")
    per_hour: float = Field(0.0, ge=0, description="For an hour of the machine while it generates.")


class EngineSettings(Settings):
    """What runs a model. How it is batched and stored is not part of a result's identity."""

    kind: Literal["transformers", "vllm", "openai"] = Field(
        "transformers", description="This process, vLLM in its own processes, or a server with the OpenAI API."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs; not for openai.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Of the weights: 'auto' is bfloat16 on GPUs and float32 on CPUs; not for openai."
    )
    batch_size: int = Field(64, ge=1, description="Rows decoded together by transformers.")
    flush_seconds: float = Field(5.0, ge=0, description="What is finished is written to disk this often.")
    max_failure_rate: float = Field(
        0.02, ge=0, le=1, description="Share of a stage's rows that may fail; above it the step fails."
    )
    structured_output: Literal["auto", "required", "off"] = Field(
        "auto", description="Constrain reviews by a grammar: where the engine provably can, or else fail, or never."
    )
    vllm: VllmSettings = Field(default_factory=VllmSettings, description="For kind vllm.")
    openai: OpenAISettings | None = Field(None, description="For kind openai.")
    prices: PriceSettings = Field(default_factory=PriceSettings, description="What it costs; nothing by default.")

    @model_validator(mode="after")
    def _has_a_server(self) -> Self:
        if self.kind == "openai" and self.openai is None:
            raise ValueError("kind is openai and there is no section openai; add one with base_url")
        if self.kind == "transformers" and self.structured_output == "required":
            raise ValueError("structured_output is required and transformers has none; use kind vllm or openai")
        return self


class RoleSettings(Settings):
    """A second model that does one of the recipe's jobs, the same in every round."""

    model: ModelName | None = Field(
        None,
        description="'small', package.module:NAME, a folder, or a hub id; none: the server's (engine.openai.model).",
    )
    model_revision: str | None = Field(None, description="Revision of a hub model.")
    prompt_profile: PromptProfile | None = Field(None, description="Its prompt templates; none: the experiment's.")
    engine: EngineSettings = Field(default_factory=EngineSettings, description="What runs it.")

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.model is None and self.engine.kind != "openai":
            raise ValueError(f"model is missing: an engine of kind {self.engine.kind} needs one")
        return self
