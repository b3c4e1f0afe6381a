"""Zeros are removed: coupled channels are found, sliced away, and the rest is proved equal."""

from tonsor.shrink.blocks import Block as Block
from tonsor.shrink.blocks import Blocks as Blocks
from tonsor.shrink.blocks import block_influence as block_influence
from tonsor.shrink.blocks import residual_blocks as residual_blocks
from tonsor.shrink.collect import Group as Group
from tonsor.shrink.collect import Slice as Slice
from tonsor.shrink.costs import KINDS as KINDS
from tonsor.shrink.costs import Cost as Cost
from tonsor.shrink.costs import Costs as Costs
from tonsor.shrink.find import channel_groups as channel_groups
from tonsor.shrink.groups import ChannelGroups as ChannelGroups
from tonsor.shrink.limits import Limits as Limits
from tonsor.shrink.penalties import group_lasso as group_lasso
from tonsor.shrink.penalties import growing_l2 as growing_l2
from tonsor.shrink.remove_blocks import Removed as Removed
from tonsor.shrink.remove_blocks import Skip as Skip
from tonsor.shrink.remove_blocks import remove_blocks_ as remove_blocks_
from tonsor.shrink.resize import resize_ as resize_
from tonsor.shrink.rules import RULES as RULES
from tonsor.shrink.saved import load as load
from tonsor.shrink.saved import save as save
from tonsor.shrink.shrink import shrink_ as shrink_
from tonsor.shrink.shrink_to import Reached as Reached
from tonsor.shrink.shrink_to import shrink_to as shrink_to
from tonsor.shrink.shrunk import Shrunk as Shrunk
