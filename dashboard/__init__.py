"""The dashboard: pages over the engine's store. No model library is ever imported here."""
