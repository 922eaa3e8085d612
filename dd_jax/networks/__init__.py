"""Networks: by name, from a flax module, or from anywhere; and how their layers are computed."""
