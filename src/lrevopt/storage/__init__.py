"""What stays on disk: settings as JSON, weights and records as .npz, checkpoints with Orbax.

Everything is written beside its destination first and renamed into place, so that a run that
is killed leaves either the old file or the new one. Every file carries a checksum of its content.
Loaders raise `ValueError` with one sentence for what is missing, damaged or somebody else's.
"""

from lrevopt.storage.checkpoints import load_arrays as load_arrays
from lrevopt.storage.checkpoints import save_arrays as save_arrays
from lrevopt.storage.contents import digest_of_contents as digest_of_contents
from lrevopt.storage.documents import json_text as json_text
from lrevopt.storage.documents import load_json as load_json
from lrevopt.storage.documents import save_json as save_json
from lrevopt.storage.files import LOCK as LOCK
from lrevopt.storage.files import read_settled as read_settled
from lrevopt.storage.files import remove as remove
from lrevopt.storage.files import remove_leftovers as remove_leftovers
from lrevopt.storage.files import replace_together as replace_together
from lrevopt.storage.files import writable_directory as writable_directory
from lrevopt.storage.files import write_atomically as write_atomically
from lrevopt.storage.locks import claimed as claimed
from lrevopt.storage.packed import DIGEST as DIGEST
from lrevopt.storage.packed import digest_of_arrays as digest_of_arrays
from lrevopt.storage.packed import load_npz as load_npz
from lrevopt.storage.packed import load_source as load_source
from lrevopt.storage.packed import npz_bytes as npz_bytes
from lrevopt.storage.packed import save_npz as save_npz
from lrevopt.storage.packed import shortened as shortened
from lrevopt.storage.parts import UNFINISHED as UNFINISHED
from lrevopt.storage.parts import part as part
from lrevopt.storage.parts import resumable as resumable
from lrevopt.storage.records import load_record as load_record
from lrevopt.storage.records import record_bytes as record_bytes
from lrevopt.storage.records import save_record as save_record
from lrevopt.storage.records import six_digits as six_digits
from lrevopt.storage.settings import SETTINGS as SETTINGS
from lrevopt.storage.settings import check_output as check_output
from lrevopt.storage.settings import load_settings as load_settings
from lrevopt.storage.settings import other_settings as other_settings
from lrevopt.storage.trees import VALUES as VALUES
from lrevopt.storage.trees import agree as agree
from lrevopt.storage.trees import arrays_to_tree as arrays_to_tree
from lrevopt.storage.trees import describe as describe
from lrevopt.storage.trees import digest_of as digest_of
from lrevopt.storage.trees import fields_of as fields_of
from lrevopt.storage.trees import package_of as package_of
from lrevopt.storage.trees import tree_to_arrays as tree_to_arrays
from lrevopt.storage.trees import versions as versions

WEIGHTS, OLD_WEIGHTS = "weights.npz", "weights"
"""Weights in the folder of a run; in older folders they are an Orbax checkpoint."""
