"""Where deliveries go, one module for each target; ``service/deliveries/targets.py`` says which is whose."""
