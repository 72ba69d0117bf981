"""Tiles for the interpreter, whose time is per operation, not per value: a few programs, each with a large tile.

Sizes are still padded and masked, ends of rows and frames still fall inside a tile, and most sums are still joined from several
programs. What is launched on a GPU is tested on small sizes, kernel by kernel, with the tiles as they are there.
"""


def use_large_tiles(monkeypatch, pairs: int = 256, values: int = 1 << 16) -> None:
    """Until the test ends. pairs: (row, joint) pairs of a tile of the temporal convolution; values: of a pass of batch norm."""
    from hiclr_kernels.attention import gpu as attention
    from hiclr_kernels.batch_norm import gpu as norm
    from hiclr_kernels.graph_conv import gpu as graph
    from hiclr_kernels.temporal import gpu as temporal
    from hiclr_kernels.temporal import tiles

    shipped, diagonals = tiles.band_tile, temporal.diagonals_constants

    def band_tile(*given):
        return shipped(*given)._replace(M=pairs, F=8, BI=256)

    def weights_config(*given):
        tile, constants = tiles.forward_config(*given[:-1])
        return tile, dict(constants, HELD=1, FOLD=given[-1])

    for place, values_of in (
        (norm, dict(TILE=values, SPLITS=8)),
        (graph, dict(TILE=1 << 16, SPREAD=values, SHARES=4, FRAMES=16, INPUT_FRAMES=16, BLOCKS=(128, 128))),
        (graph.wide_tile, dict(__defaults__=(16,))),
        (temporal, dict(BAND_BLOCK=1 << 16, weights_config=weights_config)),
        (temporal, dict(diagonals_constants=lambda constants: diagonals(constants) | dict(BLOCK=1 << 10, PARTS=8))),
        (tiles, dict(band_tile=band_tile)),
        (attention, dict(COLUMNS=512)),
    ):
        for name, value in values_of.items():
            monkeypatch.setattr(place, name, value)
