"""Who gets what: a user's slot, the slots' owners, and the weights behind them."""

from modelyard.routing.hashing import N_SLOTS, slot_and_mark_of, slot_of
from modelyard.routing.slots import SlotTable
from modelyard.routing.weights import normalised

__all__ = ["N_SLOTS", "SlotTable", "normalised", "slot_and_mark_of", "slot_of"]
