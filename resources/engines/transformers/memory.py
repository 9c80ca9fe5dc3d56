"""What an engine does where memory runs out: it says so, and gives back what it can."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch found no memory; on a CPU it raises a plain RuntimeError with these words."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_memory() -> None:
    """Give back what no tensor needs; not while such an error is handled, whose traceback keeps tensors alive."""
    import gc

    import torch

    # What is part of a cycle of references would keep its tensors until the collector runs by itself.
    gc.collect()
    if torch.cuda.is_available():
        # torch keeps freed blocks for itself, and the process that trains next needs them.
        torch.cuda.empty_cache()
