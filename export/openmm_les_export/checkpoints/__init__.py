"""Files of trained models, read without running code from them."""
