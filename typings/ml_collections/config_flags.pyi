from typing import Any

def DEFINE_config_dict(name: str, config: Any, **kwargs: Any) -> Any: ...  # noqa: N802
