"""How large temporary tensors may be on a CPU."""

#: Work is cut into blocks whose temporaries have about this many elements, so that they stay in the
#: cache and memory is bounded. Measured best between 2**15 and 2**22 on 192 waters, one and two
#: threads. On a GPU nothing is cut: launches cost more than the memory traffic saves.
CACHE_ELEMENTS = 2**19
