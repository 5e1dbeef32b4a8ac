"""What tests of several packages share: recipes, synthetic studies, stand-ins for servers, browsers and clusters."""
