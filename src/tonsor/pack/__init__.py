"""A model becomes few bytes, in memory and in a file; and fast ones, by layers that use the zeros."""

from tonsor.pack.bit_steps import BitPath as BitPath
from tonsor.pack.bit_steps import bit_path as bit_path
from tonsor.pack.by_kmeans import kmeans as kmeans
from tonsor.pack.by_step import uniform as uniform
from tonsor.pack.centroids import Centroids as Centroids
from tonsor.pack.centroids import finetune_ as finetune_
from tonsor.pack.coders import CODERS as CODERS
from tonsor.pack.coding import POSITIONS as POSITIONS
from tonsor.pack.coding import Coding as Coding
from tonsor.pack.compensated import gptq as gptq
from tonsor.pack.entry import Entry as Entry
from tonsor.pack.file import load as load
from tonsor.pack.file import save as save
from tonsor.pack.find_bits import Chosen as Chosen
from tonsor.pack.find_bits import find_bits as find_bits
from tonsor.pack.listing import listing as listing
from tonsor.pack.packed import Packed as Packed
from tonsor.pack.packed import pack as pack
from tonsor.pack.packed import unpack as unpack
from tonsor.pack.share import Bits as Bits
from tonsor.pack.share import share as share
from tonsor.pack.shared import Shared as Shared
from tonsor.pack.shared import Sharing as Sharing
from tonsor.pack.sparse import densify_ as densify_
from tonsor.pack.sparse import swap_sparse_ as swap_sparse_
from tonsor.pack.sparse_layers import SparseLayer as SparseLayer
from tonsor.pack.sparse_report import Choice as Choice
from tonsor.pack.sparse_report import Swapped as Swapped
from tonsor.pack.sparse_report import Timed as Timed
from tonsor.pack.sparse_ways import WAYS as WAYS

SHARINGS: dict[str, Sharing] = {
    "kmeans": kmeans,
    "uniform": uniform,
}
