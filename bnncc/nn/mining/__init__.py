"""Mining of channel interactions (CI-BCNN, Wang et al., CVPR 2019): by a policy, and in closed form."""

from bnncc.nn.mining.miner import Miner, MiningResult, agreements, mine, table
from bnncc.nn.mining.options import MiningOptions
from bnncc.nn.mining.rewards import Rewards
from bnncc.nn.mining.statistics import Thresholds

__all__ = ["Miner", "MiningOptions", "MiningResult", "Rewards", "Thresholds", "agreements", "mine", "table"]
