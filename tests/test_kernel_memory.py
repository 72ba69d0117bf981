"""Output memory is used again, and never while somebody still holds it."""

import torch
from hiclr_kernels.memory import KEPT, Reused


def test_memory_comes_back_when_the_last_view_dies():
    memory = Reused()
    x = memory.empty(2, 3)
    first, view = x.data_ptr(), x.permute(1, 0)[1:]
    view.fill_(7)
    del x
    other = memory.empty(3, 2)
    assert other.data_ptr() != first  # the view holds the first
    other.fill_(1)
    assert bool((view == 7).all())
    del view
    assert memory.empty(6).data_ptr() == first


def test_other_sizes_and_many_tensors_do_not_pile_up():
    memory = Reused()
    held = [memory.empty(4) for _ in range(KEPT + 3)]
    assert len({x.data_ptr() for x in held}) == len(held)
    held.clear()
    assert len(memory.free) == KEPT
    assert memory.empty(5).shape == torch.Size([5]) and not memory.free
