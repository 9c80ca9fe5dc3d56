"""What of training needs a GPU: attention, optimizer and kernels of other libraries, and weights in four bits."""
