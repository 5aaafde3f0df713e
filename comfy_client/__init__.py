"""`identity-lock queue`: a headless client of a running ComfyUI. It knows ComfyUI's HTTP API and nothing else of it."""
