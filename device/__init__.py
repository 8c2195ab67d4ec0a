"""Bedside Companion: press, speak, be answered. Importing this package is instant; torch lives in device.voice."""
