"""Why a run stands where it does: which rank failed first and with what, or what it waits for."""
