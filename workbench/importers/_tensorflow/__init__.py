"""What the TensorFlow, Keras and TFLite importers share."""
