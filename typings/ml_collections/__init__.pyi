"""Types of ml_collections, which itself declares the values of a config to be of any leaf type."""

from ml_collections import config_dict as config_dict
from ml_collections import config_flags as config_flags
from ml_collections.config_dict import ConfigDict as ConfigDict
