"""The KV cache's accounting: slots, cells, layouts, and the prefix cache in slots, in host memory and on the disk."""
