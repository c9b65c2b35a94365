"""Networks, losses and schedules that models are composed of."""
