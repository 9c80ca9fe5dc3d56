"""The sections of an experiment's file on engines: the step's own process, vLLM's processes, or a server."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lance_assets.keys import check_base_url
from lance_assets.settings.values import FromEnvironment, ModelName, PromptProfile, Settings, StructuredOutput


class VllmSettings(Settings):
    """vLLM's offline engine, in processes of its own."""

    python: FromEnvironment = Field(
        "${LANCE_VLLM_PYTHON:-python}",
        validate_default=True,
        description="The Python interpreter that has vLLM; 'python' is the one that runs the step.",
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share one copy of the model.")
    data_parallel_size: int = Field(
        1, ge=1, description="Copies of the model, each in a process and on GPUs of its own."
    )
    copies_on: Literal["machine", "ray"] = Field(
        "machine",
        description="Where the copies run: 'machine' for the step's own, 'ray' for any nodes of the Ray cluster that "
        "RAY_ADDRESS names, each copy on one node.",
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, lt=1, description="Share of a GPU's memory that the engine may take."
    )
    max_model_len: int | None = Field(
        None, ge=16, description="Most tokens of prompt and completion. None: the model's limit."
    )
    max_num_seqs: int = Field(512, ge=1, description="Rows decoded together by one copy.")
    max_num_batched_tokens: int | None = Field(
        None, ge=32, description="Most tokens of one step. None: vLLM's default."
    )
    prefix_caching: bool = Field(True, description="Whether a prefix that several prompts share is computed once.")
    block_size: int | None = Field(
        None, ge=1, description="Tokens of a cache block. None: 32 on CPUs, vLLM's default on GPUs."
    )
    kv_cache_gib: int = Field(
        1, ge=1, description="GiB of cache of one copy on a CPU; on GPUs gpu_memory_utilization decides."
    )
    enforce_eager: bool = Field(False, description="Use neither compilation nor CUDA graphs; on CPUs vLLM never does.")
    num_threads: int | None = Field(
        None, ge=1, description="CPU threads of one copy. None: the cores divided by the copies."
    )
    merge_adapters_above: int = Field(
        0,
        ge=0,
        description="Stages of up to this many rows use the round's LoRA adapter; larger ones use its merged weights.",
    )
    max_restarts: int = Field(6, ge=0, description="How often in a row processes may die without finishing any row.")
    stall_seconds: float = Field(
        900.0, gt=0, description="A process that is silent for this many seconds is restarted."
    )


class OpenAISettings(Settings):
    """Any server with the OpenAI API: vLLM, SGLang, TGI, or a hosted one."""

    base_url: Annotated[FromEnvironment, AfterValidator(check_base_url)] = Field(
        description="The server's address up to and including /v1, without user or key."
    )
    model: FromEnvironment | None = Field(
        None, description="The model's name on the server. None: the only one it serves."
    )
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="The environment variable that holds the key. None: no key.",
    )
    max_concurrency: int = Field(64, ge=1, description="Most requests at the same time.")
    requests_per_minute: int | None = Field(None, ge=1, description="The provider's limit on requests. None: no limit.")
    tokens_per_minute: int | None = Field(
        None, ge=1, description="The provider's limit on prompt and completion tokens. None: no limit."
    )
    timeout_seconds: float = Field(300.0, gt=0, description="Most seconds to wait for the next byte of an answer.")
    max_retries: int = Field(
        9, ge=0, description="How often a request is repeated after 408, 409, 429, 5xx or an unreadable answer."
    )
    parameters: dict[str, str | None] = Field(
        default_factory=dict,
        description="Other names of the API's parameters on this server, such as {max_tokens: max_completion_tokens}; "
        "null leaves one out: {temperature: null}.",
    )
    load_adapters: bool = Field(
        False,
        description="Whether each round's LoRA adapter is loaded into the server, by vLLM's API; it serves the base "
        "model.",
    )


class PriceSettings(Settings):
    """What an engine costs, in one currency of your choice."""

    prompt_per_million: float = Field(0.0, ge=0, description="Price of a million prompt tokens that were not cached.")
    cached_per_million: float = Field(0.0, ge=0, description="Price of a million cached prompt tokens.")
    completion_per_million: float = Field(0.0, ge=0, description="Price of a million completion tokens.")
    per_hour: float = Field(0.0, ge=0, description="Price of an hour of the machine while it generates.")


class EngineSettings(Settings):
    """The engine of a model. How rows are batched and stored is not part of a result's identity."""

    kind: Literal["transformers", "vllm", "openai"] = Field(
        "transformers",
        description="'transformers' in the step's process, 'vllm' in its own processes, or 'openai' for a server with "
        "that API.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the model runs; it has no effect for openai."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Type of the weights: 'auto' is bfloat16 on GPUs and float32 on CPUs. With "
        "'auto' the rows of a pool are read with bfloat16 products where the CPU has instructions for them and the "
        "model has 20M parameters or more.",
    )
    batch_size: int = Field(64, ge=1, description="Rows that transformers decodes together.")
    num_threads: int | None = Field(
        None, ge=1, description="CPU threads of transformers. None: torch's choice. vllm has a setting of its own."
    )
    flush_seconds: float = Field(5.0, ge=0, description="Finished rows are written to disk every so many seconds.")
    max_failure_rate: float = Field(
        0.02, ge=0, le=1, description="Largest share of a stage's rows that may fail; above it the step fails."
    )
    structured_output: StructuredOutput = Field(
        "auto",
        description="Whether reviews are constrained by a grammar: 'auto' if the engine can, 'required' or the step "
        "fails, 'off'.",
    )
    vllm: VllmSettings = Field(default_factory=VllmSettings, description="For kind vllm.")
    openai: OpenAISettings | None = Field(None, description="For kind openai.")
    prices: PriceSettings = Field(
        default_factory=PriceSettings, description="What the engine costs; nothing by default."
    )

    @model_validator(mode="after")
    def _has_a_server(self) -> Self:
        if self.kind == "openai" and self.openai is None:
            raise ValueError("kind is openai, but there is no section openai; add one with base_url")
        return self


class StepRequest(Settings):
    """What one step asks a cluster for; on this machine it has no effect."""

    num_cpus: int = Field(1, ge=1, description="CPU cores.")
    num_gpus: int | None = Field(
        None, ge=0, description="GPUs. None: those that the engine, or the processes of training, need."
    )
    memory_gib: float | None = Field(None, gt=0, description="GiB of memory. None: the cluster's default.")
    num_nodes: int | None = Field(
        None,
        ge=1,
        description="Machines of a step that trains, under Slurm; the other numbers are of each machine. None: "
        "num_machines of accelerate_config, or one.",
    )


class RoleSettings(Settings):
    """A second model that does one of the recipe's jobs, the same in every round."""

    model: ModelName | None = Field(
        None,
        description="'small', package.module:NAME, a folder, or a hub id. None: the server's (engine.openai.model).",
    )
    model_revision: str | None = Field(None, description="Revision of a hub model.")
    prompt_profile: PromptProfile | None = Field(
        None, description="Its profile of prompt templates. None: the experiment's."
    )
    engine: EngineSettings = Field(default_factory=EngineSettings, description="The engine that runs it.")

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.model is None and self.engine.kind != "openai":
            raise ValueError(f"model is missing: an engine of kind {self.engine.kind} needs one")
        return self


class GeneratorSettings(RoleSettings):
    """Another model that writes a share of the completions which the round's own model would write."""

    share: float = Field(
        gt=0, le=1, description="Of the completions; what all generators leave over the round's own model writes."
    )

    @model_validator(mode="after")
    def _is_asked_in_the_rounds_words(self) -> Self:
        if self.prompt_profile is not None:
            raise ValueError(
                f"prompt_profile: {self.prompt_profile}: a generator is asked the prompts themselves, in the round's "
                "own words; remove it"
            )
        return self
