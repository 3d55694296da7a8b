"""What is asked: items, batteries and the readers that make them."""

from specsafe.battery.items import AXES, Axis, Battery, Item, axis_label
from specsafe.battery.readers import STARTER, load_battery, load_prompts

__all__ = ["AXES", "STARTER", "Axis", "Battery", "Item", "axis_label", "load_battery", "load_prompts"]
